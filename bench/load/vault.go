package main

import (
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"math/big"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"time"
)

// serveVault is a Key Vault that gives one key for every name, over TLS, and an identity endpoint as App Service has it.
// It answers at once, so that a cold start with it is the shim's own time. The certificate is put into the folder.
func serveVault(arguments []string) error {
	if len(arguments) != 2 {
		return fmt.Errorf("usage: load vault FOLDER KEY")
	}
	folder, key := arguments[0], arguments[1]
	certificate, err := makeCertificate(filepath.Join(folder, "vault.pem"))
	if err != nil {
		return err
	}
	vault, err := tls.Listen("tcp", "127.0.0.1:0", &tls.Config{Certificates: []tls.Certificate{certificate}})
	if err != nil {
		return err
	}
	identity, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return err
	}
	const token = "bench-token"
	go http.Serve(identity, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		answerJSON(w, 200, map[string]any{
			"access_token": token, "token_type": "Bearer", "resource": "https://vault.azure.net",
			"expires_on": fmt.Sprint(time.Now().Add(24 * time.Hour).Unix()),
		})
	}))
	go http.Serve(vault, http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if r.Header.Get("Authorization") != "Bearer "+token {
			w.Header().Set("WWW-Authenticate",
				`Bearer authorization="https://login.windows.net/00000000-0000-4000-8000-000000000000", resource="https://vault.azure.net"`)
			answerJSON(w, 401, map[string]any{"error": map[string]string{"code": "Unauthorized", "message": "AKV10000"}})
			return
		}
		name := strings.Split(strings.Trim(r.URL.Path, "/"), "/")[1]
		answerJSON(w, 200, map[string]any{
			"value": key, "id": "https://" + r.Host + "/secrets/" + name + "/0", "tags": map[string]string{"label": "bench"},
			"attributes": map[string]any{"enabled": true, "created": 1, "updated": 1},
		})
	}))
	return announce(map[string]int{
		"port": vault.Addr().(*net.TCPAddr).Port, "identity_port": identity.Addr().(*net.TCPAddr).Port,
	})
}

func answerJSON(w http.ResponseWriter, status int, content any) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	json.NewEncoder(w).Encode(content)
}

func makeCertificate(path string) (tls.Certificate, error) {
	key, err := ecdsa.GenerateKey(elliptic.P256(), rand.Reader)
	if err != nil {
		return tls.Certificate{}, err
	}
	template := &x509.Certificate{
		SerialNumber: big.NewInt(time.Now().UnixNano()), Subject: pkix.Name{CommonName: "bench"},
		DNSNames: []string{"*.vault.azure.net", "localhost"}, IPAddresses: []net.IP{net.IPv4(127, 0, 0, 1)},
		NotBefore: time.Now().Add(-time.Hour), NotAfter: time.Now().Add(24 * time.Hour),
		KeyUsage: x509.KeyUsageDigitalSignature | x509.KeyUsageCertSign, IsCA: true, BasicConstraintsValid: true,
		ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, &key.PublicKey, key)
	if err != nil {
		return tls.Certificate{}, err
	}
	block := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: der})
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, os.WriteFile(path, block, 0o600)
}
