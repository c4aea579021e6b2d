module zta.local/log-verifier

go 1.24
