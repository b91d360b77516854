package sim

// event is something that happens at a true time. Events of one instant happen
// in the order in which they were planned.
type event struct {
	at  int64
	seq uint64
	do  func()
}

func (e *event) before(o *event) bool {
	return e.at < o.at || e.at == o.at && e.seq < o.seq
}

// agenda is a heap of events with four children a node.
type agenda struct {
	events []event
	seq    uint64
}

func (a *agenda) add(at int64, do func()) {
	a.seq++
	a.events = append(a.events, event{at, a.seq, do})
	i := len(a.events) - 1
	for i > 0 {
		up := (i - 1) / 4
		if !a.events[i].before(&a.events[up]) {
			break
		}
		a.events[i], a.events[up] = a.events[up], a.events[i]
		i = up
	}
}

// first is the time of the earliest event, never when there is none.
func (a *agenda) first() int64 {
	if len(a.events) == 0 {
		return never
	}
	return a.events[0].at
}

// next takes the earliest event off; ok is false when there is none.
func (a *agenda) next() (e event, ok bool) {
	n := len(a.events) - 1
	if n < 0 {
		return event{}, false
	}
	e = a.events[0]
	a.events[0] = a.events[n]
	a.events[n] = event{}
	a.events = a.events[:n]
	i := 0
	for {
		least := i
		for c := 4*i + 1; c < min(4*i+5, n); c++ {
			if a.events[c].before(&a.events[least]) {
				least = c
			}
		}
		if least == i {
			return e, true
		}
		a.events[i], a.events[least] = a.events[least], a.events[i]
		i = least
	}
}
