// Package invariant ends the process when something that must hold does not.
//
// A broken invariant is an error of the program, not of its environment:
// going on could open two gates or lose a write, so it panics with its
// numbers. The guard then closes the gate and tells the others.
package invariant

import "fmt"

// Check panics with the formatted message unless ok. Callers put the numbers
// that broke the rule into the message.
func Check(ok bool, format string, args ...any) {
	if !ok {
		panic("invariant: " + fmt.Sprintf(format, args...))
	}
}
