package transport

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"time"
)

const alpn = "holdfast"

// errUnknownKey and the others are what VerifyConnection refuses.
var (
	errUnknownKey = errors.New("key is not that of a member")
	errWrongKey   = errors.New("key is not that of the member dialled")
	errKeyRefused = errors.New("peer ended the connection after TLS, its member list may have another public key for us")
	errDirection  = errors.New("member with the higher name must not dial")
	errNotTLS     = errors.New("connection is not a fresh TLS 1.3 session of ours")
)

// certificate wraps the node key for TLS. Nothing in it but the key is ever
// looked at, so its dates span all time and no clock matters.
func certificate(key ed25519.PrivateKey) (tls.Certificate, error) {
	template := &x509.Certificate{
		SerialNumber: big.NewInt(1),
		NotBefore:    time.Unix(0, 0),
		NotAfter:     time.Date(9999, 12, 31, 23, 59, 59, 0, time.UTC), // RFC 5280: no end
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("wrap node key in a certificate: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// baseTLS has what both sides agree on. InsecureSkipVerify and
// RequireAnyClientCert only switch off names and authorities: verify, which
// runs on every handshake, pins the key, and TLS itself makes the peer prove
// that it holds it.
func baseTLS(cert tls.Certificate, verify func(tls.ConnectionState) error) *tls.Config {
	return &tls.Config{
		Certificates:                []tls.Certificate{cert},
		MinVersion:                  tls.VersionTLS13,
		MaxVersion:                  tls.VersionTLS13,
		NextProtos:                  []string{alpn},
		InsecureSkipVerify:          true,
		ClientAuth:                  tls.RequireAnyClientCert,
		SessionTicketsDisabled:      true,
		DynamicRecordSizingDisabled: true,
		VerifyConnection:            verify,
	}
}

// provenKey returns the key that the other side has proved to hold.
func provenKey(cs *tls.ConnectionState) (ed25519.PublicKey, error) {
	if cs.Version != tls.VersionTLS13 || cs.DidResume || cs.NegotiatedProtocol != alpn || len(cs.PeerCertificates) != 1 {
		return nil, errNotTLS
	}
	key, ok := cs.PeerCertificates[0].PublicKey.(ed25519.PublicKey)
	if !ok {
		return nil, fmt.Errorf("%w: key of type %T", errUnknownKey, cs.PeerCertificates[0].PublicKey)
	}
	return key, nil
}

// serverTLS accepts any member that has to dial us.
func (t *Transport) serverTLS() *tls.Config {
	return baseTLS(t.cert, func(cs tls.ConnectionState) error {
		_, err := t.identify(&cs)
		return err
	})
}

// identify returns the member whose key the dialer has proved to hold.
func (t *Transport) identify(cs *tls.ConnectionState) (*peer, error) {
	key, err := provenKey(cs)
	if err != nil {
		return nil, err
	}
	p := t.roster.Load().byKey[string(key)]
	if p == nil {
		return nil, fmt.Errorf("%w: %s", errUnknownKey, EncodePublicKey(key))
	}
	if p.weDial {
		return nil, fmt.Errorf("%w: %s", errDirection, p.name)
	}
	return p, nil
}

// clientTLS accepts the key of exactly one member.
func (p *peer) clientTLS() *tls.Config {
	return baseTLS(p.t.cert, func(cs tls.ConnectionState) error {
		key, err := provenKey(&cs)
		if err != nil {
			return err
		}
		if !key.Equal(p.key) {
			return fmt.Errorf("%w: %s", errWrongKey, EncodePublicKey(key))
		}
		return nil
	})
}
