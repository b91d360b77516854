package membership

import "fmt"

// Differences compares the members of a node's configuration file with the
// committed ones and says what to do about each difference; nil when there is
// none.
func Differences(file, committed []Member) []string {
	var all []string
	for _, f := range file {
		m, ok := find(committed, func(m Member) bool { return m.Name == f.Name })
		switch {
		case !ok:
			all = append(all, fmt.Sprintf("%s is in the file and not a member: holdfast member add %s", f.Name, f.Name))
			continue
		case f.PublicKey != m.PublicKey:
			all = append(all, fmt.Sprintf("%s has another key in the file: holdfast member replace %s", f.Name, f.Name))
		}
		if f.Gateway != m.Gateway {
			all = append(all, fmt.Sprintf("%s is a %s in the file and a %s in the cluster", f.Name, role(f), role(m)))
		}
		if f.Priority != m.Priority {
			all = append(all, fmt.Sprintf("%s has priority %d in the file and %d in the cluster", f.Name, f.Priority, m.Priority))
		}
	}
	for _, m := range committed {
		if _, ok := find(file, func(f Member) bool { return f.Name == m.Name }); !ok {
			all = append(all, fmt.Sprintf("%s is a member and not in the file: holdfast member remove %s, or add it to the file", m.Name, m.Name))
		}
	}
	return all
}

func role(m Member) string {
	if m.Gateway {
		return "gateway"
	}
	return "witness"
}
