package control

import (
	"context"
	"log/slog"
	"net/http"
)

// NewTestHandler answers requests without a socket, for any caller.
func NewTestHandler(b Backend) http.Handler {
	a := newAPI(b, slog.New(slog.DiscardHandler), func(Caller) bool { return true }, context.Background())
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		a.ServeHTTP(w, r.WithContext(context.WithValue(r.Context(), callerKey{}, connected{})))
	})
}
