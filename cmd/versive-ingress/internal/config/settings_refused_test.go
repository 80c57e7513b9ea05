package config

import (
	"strings"
	"testing"
)

// Values out of range and settings that contradict each other: the message
// names the variable, its value and what is allowed, and fits on one line.
func TestSettingsRefused(t *testing.T) {
	type settings map[string]string
	password := "hunter2"
	for name, c := range map[string]struct {
		settings settings
		want     []string
	}{
		"no secret":       {settings{"INGRESS_SECRETS": ""}, []string{"INGRESS_SECRETS ", "INGRESS_SECRETS_FILE", "whsec_…", "versive-ingress demo"}},
		"empty file":      {settings{"INGRESS_SECRETS": "", "INGRESS_SECRETS_FILE": secretsFile(t, "# none yet\n")}, []string{"INGRESS_SECRETS ", "INGRESS_SECRETS_FILE", "secrets has none"}},
		"BOM alone":       {settings{"INGRESS_SECRETS": "", "INGRESS_SECRETS_FILE": secretsFile(t, "\ufeff")}, []string{"INGRESS_SECRETS ", "secrets has none"}},
		"secret, base64":  {settings{"INGRESS_SECRETS": "whsec_" + password + "!"}, []string{"INGRESS_SECRETS", "secret 1 of 1", "base64"}},
		"secret, short":   {settings{"INGRESS_SECRETS": testSecret + ",whsec_c2hvcnQ="}, []string{"INGRESS_SECRETS", "secret 2 of 2", "at least 24"}},
		"secret, comma":   {settings{"INGRESS_SECRETS": ","}, []string{"INGRESS_SECRETS ", "whsec_…"}},
		"secret, space":   {settings{"INGRESS_SECRETS": testSecret[:20] + " " + testSecret[20:]}, []string{"INGRESS_SECRETS: secret 1 of 1", "white space"}},
		"secret, public":  {settings{"INGRESS_SECRETS": "whpk_" + testSecret[6:]}, []string{"INGRESS_SECRETS: secret 1 of 1", "public key", "whsec_…"}},
		"secret, in file": {settings{"INGRESS_SECRETS_FILE": secretsFile(t, "# mine\r\n\r\nwhsec_"+password+"!\n")}, []string{"INGRESS_SECRETS_FILE: /", "secrets, line 3: secret 2 of 2", "base64"}},

		"LISTEN":             {settings{"INGRESS_LISTEN": "8080"}, []string{`INGRESS_LISTEN="8080"`, "host:port"}},
		"LISTEN port":        {settings{"INGRESS_LISTEN": ":80800"}, []string{`INGRESS_LISTEN=":80800"`, "port"}},
		"LISTEN port name":   {settings{"INGRESS_LISTEN": ":web"}, []string{`INGRESS_LISTEN=":web"`, "port"}},
		"LISTEN no port":     {settings{"INGRESS_LISTEN": "127.0.0.1:"}, []string{`INGRESS_LISTEN="127.0.0.1:"`, "port"}},
		"ADMIN_LISTEN":       {settings{"INGRESS_ADMIN_LISTEN": "localhost"}, []string{`INGRESS_ADMIN_LISTEN="localhost"`, "host:port"}},
		"NATS_LISTEN":        {settings{"INGRESS_NATS_LISTEN": "4222"}, []string{`INGRESS_NATS_LISTEN="4222"`, "host:port"}},
		"PATH":               {settings{"INGRESS_PATH": "webhooks"}, []string{`INGRESS_PATH="webhooks"`, `begins with "/"`}},
		"PATH query":         {settings{"INGRESS_PATH": "/webhooks?x"}, []string{`INGRESS_PATH="/webhooks?x"`, "query"}},
		"PATH escape":        {settings{"INGRESS_PATH": "/web%20hooks"}, []string{`INGRESS_PATH="/web%20hooks"`, "escapes"}},
		"PATH newline":       {settings{"INGRESS_PATH": "/webhooks\n"}, []string{`INGRESS_PATH="/webhooks\n"`, "spaces"}},
		"TOLERANCE":          {settings{"INGRESS_TOLERANCE": "500ms"}, []string{`INGRESS_TOLERANCE="500ms"`, "1s to 24h"}},
		"TOLERANCE above":    {settings{"INGRESS_TOLERANCE": "25h"}, []string{`INGRESS_TOLERANCE="25h`, "1s to 24h"}},
		"TOLERANCE text":     {settings{"INGRESS_TOLERANCE": "5"}, []string{`INGRESS_TOLERANCE="5"`, `"5m"`}},
		"MAX_BODY":           {settings{"INGRESS_MAX_BODY": "32MiB"}, []string{`INGRESS_MAX_BODY="32MiB"`, "31MiB"}},
		"MAX_BODY zero":      {settings{"INGRESS_MAX_BODY": "0"}, []string{`INGRESS_MAX_BODY="0"`, `"8MiB"`}},
		"MAX_BODY unit":      {settings{"INGRESS_MAX_BODY": "8MB"}, []string{`INGRESS_MAX_BODY="8MB"`, `"8MiB"`}},
		"MAX_INFLIGHT":       {settings{"INGRESS_MAX_INFLIGHT": "10MiB"}, []string{`INGRESS_MAX_INFLIGHT="10MiB"`, "4/3", "INGRESS_MAX_BODY (8MiB)"}},
		"MAX_INFLIGHT, body": {settings{"INGRESS_MAX_INFLIGHT": "20MiB", "INGRESS_MAX_BODY": "16MiB"}, []string{`INGRESS_MAX_INFLIGHT="20MiB"`, "INGRESS_MAX_BODY (16MiB)"}},
		"MAX_STORE":          {settings{"INGRESS_MAX_STORE": "-1"}, []string{`INGRESS_MAX_STORE="-1"`, "a size"}},
		"MAX_STORE overflow": {settings{"INGRESS_MAX_STORE": "9999999TiB"}, []string{`INGRESS_MAX_STORE="9999999TiB"`, "a size"}},
		"STREAM":             {settings{"INGRESS_STREAM": "VERSIVE.EVENTS"}, []string{`INGRESS_STREAM="VERSIVE.EVENTS"`, "letters, digits"}},
		"STREAM newline":     {settings{"INGRESS_STREAM": "VERSIVE\n"}, []string{`INGRESS_STREAM="VERSIVE\n"`, "letters, digits"}},
		"STREAM long":        {settings{"INGRESS_STREAM": strings.Repeat("S", 65)}, []string{`INGRESS_STREAM="SSS`, "1 to 64"}},
		"STREAM quarantine":  {settings{"INGRESS_STREAM": "A_QUARANTINE"}, []string{`INGRESS_STREAM="A_QUARANTINE"`, "_QUARANTINE or _DEAD"}},
		"STREAM dead":        {settings{"INGRESS_STREAM": "A_DEAD"}, []string{`INGRESS_STREAM="A_DEAD"`, "_QUARANTINE or _DEAD"}},
		"SUBJECT quarantine": {settings{"INGRESS_SUBJECT": "a-quarantine"}, []string{`INGRESS_SUBJECT="a-quarantine"`, "-quarantine or -dead"}},
		"SUBJECT dead":       {settings{"INGRESS_SUBJECT": "a-dead"}, []string{`INGRESS_SUBJECT="a-dead"`, "-quarantine or -dead"}},
		"SUBJECT":            {settings{"INGRESS_SUBJECT": "versive.events"}, []string{`INGRESS_SUBJECT="versive.events"`, "one subject token"}},
		"SUBJECT wildcard":   {settings{"INGRESS_SUBJECT": ">"}, []string{`INGRESS_SUBJECT=">"`, "one subject token"}},
		"SUBJECT system":     {settings{"INGRESS_SUBJECT": "$JS"}, []string{`INGRESS_SUBJECT="$JS"`, "letter or digit"}},
		"SUBJECT long":       {settings{"INGRESS_SUBJECT": strings.Repeat("s", 33)}, []string{`INGRESS_SUBJECT="sss`, "1 to 32"}},
		"REPLICAS":           {settings{"INGRESS_REPLICAS": "0"}, []string{`INGRESS_REPLICAS="0"`, "1 to 5"}},
		"REPLICAS above":     {settings{"INGRESS_REPLICAS": "6", "INGRESS_NATS_URL": "nats://a"}, []string{`INGRESS_REPLICAS="6"`, "1 to 5"}},
		"REPLICAS text":      {settings{"INGRESS_REPLICAS": "three"}, []string{`INGRESS_REPLICAS="three"`, "a whole number"}},
		"REPLICAS embedded":  {settings{"INGRESS_REPLICAS": "3"}, []string{`INGRESS_REPLICAS="3"`, "1 with the embedded broker", "INGRESS_NATS_URL"}},
		"STREAM_MAX_BYTES":   {settings{"INGRESS_STREAM_MAX_BYTES": "-1"}, []string{`INGRESS_STREAM_MAX_BYTES="-1"`, "a size"}},
		"MAX_AGE":            {settings{"INGRESS_MAX_AGE": "-1h"}, []string{`INGRESS_MAX_AGE="-1h`, "0 (indefinitely)"}},
		"MAX_AGE short":      {settings{"INGRESS_MAX_AGE": "1ms"}, []string{`INGRESS_MAX_AGE="1ms"`, "at least 1s"}},
		"MAX_AGE days":       {settings{"INGRESS_MAX_AGE": "30d"}, []string{`INGRESS_MAX_AGE="30d"`, `"48h"`}},
		"DEDUPE_WINDOW":      {settings{"INGRESS_DEDUPE_WINDOW": "0"}, []string{`INGRESS_DEDUPE_WINDOW="0s"`, "at least 1s"}},
		"PUBLISH_TIMEOUT":    {settings{"INGRESS_PUBLISH_TIMEOUT": "10s"}, []string{`INGRESS_PUBLISH_TIMEOUT="10s"`, "100ms to 9s", "15s"}},
		"PUBLISH_TIMEOUT 0":  {settings{"INGRESS_PUBLISH_TIMEOUT": "0"}, []string{`INGRESS_PUBLISH_TIMEOUT="0s"`, "100ms to 9s"}},
		"PUBLISH_MODE":       {settings{"INGRESS_PUBLISH_MODE": "fast"}, []string{`INGRESS_PUBLISH_MODE="fast"`, "auto, batch or single"}},
		"DRAIN_DELAY":        {settings{"INGRESS_DRAIN_DELAY": "-1s"}, []string{`INGRESS_DRAIN_DELAY="-1s"`, "0s or more"}},
		"SHUTDOWN_TIMEOUT":   {settings{"INGRESS_SHUTDOWN_TIMEOUT": "-1s"}, []string{`INGRESS_SHUTDOWN_TIMEOUT="-1s"`, "0s or more"}},
		"LOG_LEVEL":          {settings{"INGRESS_LOG_LEVEL": "loud"}, []string{`INGRESS_LOG_LEVEL="loud"`, "debug, info, warn or error"}},
		"LOG_FORMAT":         {settings{"INGRESS_LOG_FORMAT": "xml"}, []string{`INGRESS_LOG_FORMAT="xml"`, "text or json"}},

		"TLS_CERT alone":     {settings{"INGRESS_TLS_CERT": "c"}, []string{"INGRESS_TLS_CERT", "INGRESS_TLS_KEY", "both"}},
		"TLS_KEY alone":      {settings{"INGRESS_TLS_KEY": "k"}, []string{"INGRESS_TLS_CERT", "INGRESS_TLS_KEY", "both"}},
		"NATS_CERT alone":    {settings{"INGRESS_NATS_CERT": "c"}, []string{"INGRESS_NATS_CERT", "INGRESS_NATS_KEY", "both"}},
		"NATS_KEY alone":     {settings{"INGRESS_NATS_KEY": "k"}, []string{"INGRESS_NATS_CERT", "INGRESS_NATS_KEY", "both"}},
		"two identities":     {settings{"INGRESS_NATS_CREDS": "c", "INGRESS_NATS_NKEY": "n"}, []string{"INGRESS_NATS_CREDS", "INGRESS_NATS_NKEY", "one of them"}},
		"two brokers":        {settings{"INGRESS_NATS_URL": "nats://a:" + password + "@b", "INGRESS_NATS_CONFIG": "c"}, []string{`INGRESS_NATS_CONFIG="c"`, "INGRESS_NATS_URL"}},
		"broker and listen":  {settings{"INGRESS_NATS_URL": "nats://a:" + password + "@b", "INGRESS_NATS_LISTEN": ":4222"}, []string{`INGRESS_NATS_LISTEN=":4222"`, "INGRESS_NATS_URL"}},
		"broker and store":   {settings{"INGRESS_NATS_URL": "nats://a:" + password + "@b", "INGRESS_MAX_STORE": "1GiB"}, []string{`INGRESS_MAX_STORE="1GiB"`, "INGRESS_NATS_URL"}},
		"NATS_URL":           {settings{"INGRESS_NATS_URL": "nats://ok,nats://u:" + password + "%@b:4222"}, []string{"INGRESS_NATS_URL", "address 2", "nats://host:4222"}},
		"NATS_URL bare":      {settings{"INGRESS_NATS_URL": "u:" + password + "%@b:4222"}, []string{"INGRESS_NATS_URL", "address 1", "nats://host:4222"}},
		"NATS_URL port":      {settings{"INGRESS_NATS_URL": "nats://u:" + password + "@b:port"}, []string{"INGRESS_NATS_URL", "address 1", "nats://host:4222"}},
		"NATS_URL scheme":    {settings{"INGRESS_NATS_URL": "http://u:" + password + "@b"}, []string{"INGRESS_NATS_URL", "address 1", "nats://host:4222"}},
		"NATS_URL comma":     {settings{"INGRESS_NATS_URL": "nats://a,"}, []string{"INGRESS_NATS_URL", "address 2", "nats://host:4222"}},
		"NATS_URL no host":   {settings{"INGRESS_NATS_URL": "nats://"}, []string{"INGRESS_NATS_URL", "address 1", "nats://host:4222"}},
		"CREDS, no broker":   {settings{"INGRESS_NATS_CREDS": "c"}, []string{`INGRESS_NATS_CREDS="c"`, "INGRESS_NATS_URL", "INGRESS_NATS_CONFIG"}},
		"NKEY, no broker":    {settings{"INGRESS_NATS_NKEY": "n"}, []string{`INGRESS_NATS_NKEY="n"`, "INGRESS_NATS_URL", "INGRESS_NATS_CONFIG"}},
		"CA, no broker":      {settings{"INGRESS_NATS_CA": "a"}, []string{`INGRESS_NATS_CA="a"`, "INGRESS_NATS_URL", "INGRESS_NATS_CONFIG"}},
		"CERT, no broker":    {settings{"INGRESS_NATS_CERT": "c", "INGRESS_NATS_KEY": "k"}, []string{`INGRESS_NATS_CERT="c"`, "INGRESS_NATS_URL", "INGRESS_NATS_CONFIG"}},
		"public NATS_LISTEN": {settings{"INGRESS_NATS_LISTEN": "0.0.0.0:4222"}, []string{`INGRESS_NATS_LISTEN="0.0.0.0:4222"`, "127.0.0.1", "INGRESS_NATS_CONFIG"}},
		"FORWARD_URL":        {settings{"INGRESS_FORWARD_URL": "nats://ok,nats://u:" + password + "%@b:4222"}, []string{"INGRESS_FORWARD_URL", "address 2", "nats://host:4222"}},
		"FORWARD, external":  {settings{"INGRESS_FORWARD_URL": "nats://a:" + password + "@b", "INGRESS_NATS_URL": "nats://c"}, []string{"INGRESS_FORWARD_URL", "INGRESS_NATS_URL"}},
		"FORWARD_CERT alone": {settings{"INGRESS_FORWARD_URL": "a", "INGRESS_FORWARD_CERT": "c"}, []string{"INGRESS_FORWARD_CERT", "INGRESS_FORWARD_KEY", "both"}},
		"FORWARD, two users": {settings{"INGRESS_FORWARD_URL": "a", "INGRESS_FORWARD_CREDS": "c", "INGRESS_FORWARD_NKEY": "n"}, []string{"INGRESS_FORWARD_CREDS", "INGRESS_FORWARD_NKEY", "one of them"}},
		"FORWARD, no hub":    {settings{"INGRESS_FORWARD_CA": "a"}, []string{`INGRESS_FORWARD_CA="a"`, "INGRESS_FORWARD_URL"}},
		"FORWARD_REPLICAS":   {settings{"INGRESS_FORWARD_URL": "a", "INGRESS_FORWARD_REPLICAS": "6"}, []string{`INGRESS_FORWARD_REPLICAS="6"`, "1 to 5"}},

		"organization, name": {
			settings{"INGRESS_SECRETS_FILE": secretsFile(t, "acme:"+NewSecret()+"\nBigCo:whsec_"+password+"\n")},
			[]string{"secrets, line 2: secret 3 of 3 has an invalid name before its colon", "lower-case letters"},
		},
		"organization, none": {settings{"INGRESS_SECRETS": ":" + testSecret}, []string{"INGRESS_SECRETS: secret 1 of 1 has an invalid name before its colon"}},
		"organizations": {
			settings{"INGRESS_SECRETS": "acme:" + testSecret, "INGRESS_SECRETS_FILE": secretsFile(t, "# of the other\n\nglobex:"+testSecret+"\n")},
			[]string{"secrets, line 3: secret 2 of 2 is the same as secret 1, which has another organization"},
		},
		"named for file":  {settings{"INGRESS_SECRETS_FILE": "acme:whsec_" + password}, []string{"INGRESS_SECRETS_FILE", "name of a file"}},
		"secret for file": {settings{"INGRESS_SECRETS_FILE": "whsec_" + password}, []string{"INGRESS_SECRETS_FILE", "name of a file"}},
		"quoted for file": {settings{"INGRESS_SECRETS_FILE": "\"v1,whsec_" + password + "\""}, []string{"INGRESS_SECRETS_FILE", "name of a file"}},
		"no SECRETS_FILE": {settings{"INGRESS_SECRETS_FILE": "/nowhere/secrets"}, []string{"INGRESS_SECRETS_FILE", "/nowhere/secrets"}},
		"no TLS_CERT":     {settings{"INGRESS_TLS_CERT": "/nowhere/cert", "INGRESS_TLS_KEY": "/nowhere/key"}, []string{"INGRESS_TLS_CERT", "/nowhere/cert"}},
		"no NATS_CREDS":   {settings{"INGRESS_NATS_URL": "a", "INGRESS_NATS_CREDS": "/nowhere/creds"}, []string{"INGRESS_NATS_CREDS", "/nowhere/creds"}},
		"no NATS_NKEY":    {settings{"INGRESS_NATS_URL": "a", "INGRESS_NATS_NKEY": "/nowhere/nkey"}, []string{"INGRESS_NATS_NKEY", "/nowhere/nkey"}},
		"no NATS_CA":      {settings{"INGRESS_NATS_URL": "a", "INGRESS_NATS_CA": "/nowhere/ca"}, []string{"INGRESS_NATS_CA", "/nowhere/ca"}},
		"no FORWARD_NKEY": {settings{"INGRESS_FORWARD_URL": "a", "INGRESS_FORWARD_NKEY": "/nowhere/nkey"}, []string{"INGRESS_FORWARD_NKEY", "/nowhere/nkey"}},
		"no NATS_CONFIG":  {settings{"INGRESS_NATS_CONFIG": "/nowhere/nats.conf"}, []string{"INGRESS_NATS_CONFIG", "/nowhere/nats.conf"}},
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, c.settings)
			_, err := Load()
			if err == nil {
				t.Fatal("accepted")
			}
			message := err.Error()
			for _, part := range c.want {
				if !strings.Contains(message, part) {
					t.Errorf("the message lacks %q: %s", part, message)
				}
			}
			for _, hidden := range []string{password, testSecret, testSecret[6:20], testSecret[20:], "\n"} {
				if strings.Contains(message, hidden) {
					t.Errorf("the message has %q: %s", hidden, message)
				}
			}
		})
	}
}

// The ends of the ranges are inside.
func TestSettingsAccepted(t *testing.T) {
	for name, settings := range map[string]map[string]string{
		"largest body":     {"INGRESS_MAX_BODY": "31MiB"},
		"small machine":    {"INGRESS_MAX_BODY": "3MiB", "INGRESS_MAX_INFLIGHT": "4MiB"},
		"no drain":         {"INGRESS_SHUTDOWN_TIMEOUT": "0"},
		"slow broker":      {"INGRESS_PUBLISH_TIMEOUT": "9s"},
		"tolerance":        {"INGRESS_TOLERANCE": "24h"},
		"window above age": {"INGRESS_MAX_AGE": "1s"},
		"root path":        {"INGRESS_PATH": "/"},
		"any port":         {"INGRESS_LISTEN": "[::]:0", "INGRESS_NATS_LISTEN": "[::1]:0"},
		"localhost":        {"INGRESS_NATS_LISTEN": "localhost:4222"},
		"configured":       {"INGRESS_NATS_LISTEN": "0.0.0.0:4222", "INGRESS_NATS_CONFIG": "settings_test.go", "INGRESS_REPLICAS": "3"},
		"cluster":          {"INGRESS_NATS_URL": " nats://a, tls://u:p@b:4222 ,c,d:4222,ws://e,wss://f", "INGRESS_REPLICAS": "5"},
		"longest subject":  {"INGRESS_SUBJECT": strings.Repeat("s", 32), "INGRESS_STREAM": strings.Repeat("S", 64)},
	} {
		t.Run(name, func(t *testing.T) {
			setenv(t, settings)
			if _, err := Load(); err != nil {
				t.Error(err)
			}
		})
	}
}
