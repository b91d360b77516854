package kv

import "github.com/holdfast-ha/holdfast/internal/invariant"

// Skip moves the revision n ahead and forgets the history: for a state that
// goes on from a copy which may lack the newest changes. Whoever has seen
// revisions that are lost then meets none of them again under another content,
// and a watch over them learns that it has to begin anew.
func (s *Store) Skip(n uint64) {
	invariant.Check(s.rev+n > s.rev, "skip %d revisions after %d", n, s.rev)
	s.view = nil
	s.rev += n
	s.history = newHistory()
	s.history.compacted = s.rev
}
