//! Attacks with OpenSSL as the client.

use std::io::{BufRead as _, BufReader, Write as _};
use std::process::{Child, Command, Stdio};

use zta_client::v1;
use zta_client::v1::agent_service_client::AgentServiceClient;

use crate::support::http::anonymous;
use crate::support::openssl::OpenSsl;
use crate::support::rpc::{allowed, call, denied};
use crate::support::server::text;
use crate::support::{Server, Setup};

/// Talks to a server until it hangs up; what OpenSSL tells of the connection.
fn talk(openssl: &OpenSsl, arguments: &str) -> String {
    let mut child = Command::new("openssl")
        .args(format!("s_client -ign_eof {arguments}").split_whitespace())
        .current_dir(openssl.path(""))
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("openssl");
    let mut stdin = child.stdin.take().expect("stdin");
    // A server that has refused the handshake may be gone already.
    let _ = stdin.write_all(b"GET /livez HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n");
    let output = child.wait_with_output().expect("openssl");
    drop(stdin);
    text(&output.stdout) + &text(&output.stderr)
}

/// OpenSSL's own server, which does resume sessions: it shows that this test would notice.
struct Control(Child, String);

impl Control {
    fn start(openssl: &OpenSsl) -> Self {
        openssl.root("control");
        let mut child = Command::new("openssl")
            .args("s_server -accept 127.0.0.1:0 -cert control.pem -key control.key -www".split(' '))
            .current_dir(openssl.path(""))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .expect("openssl");
        let stdout = BufReader::new(child.stdout.take().expect("stdout"));
        let mut lines = stdout.lines().map_while(Result::ok);
        let address = lines.find_map(|line| line.strip_prefix("ACCEPT ").map(str::to_owned));
        Self(child, address.expect("an address"))
    }
}

impl Drop for Control {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[tokio::test]
async fn a_revoked_client_resumes_nothing() {
    let openssl = OpenSsl::new();
    let control = Control::start(&openssl);
    let common = format!("-connect {} -tls1_3", control.1);
    let first = talk(&openssl, &format!("{common} -sess_out control.session"));
    assert!(first.contains("New, TLSv1.3"), "{first}");
    let second = talk(&openssl, &format!("{common} -sess_in control.session"));
    assert!(second.contains("Reused, TLSv1.3"), "{second}");

    let server = Setup::sqlite().start().await;
    let agent = server.agent("research", &["researcher"]).await;
    let folder = agent
        .credential()
        .expect("one")
        .folder()
        .expect("one")
        .to_owned();
    let file = |name: &str| folder.join(name).display().to_string();
    let common = format!(
        "-connect {} -alpn http/1.1 -CAfile {} -cert {} -key {}",
        server.endpoint(),
        file("ca.pem"),
        file("cert.pem"),
        file("key.pem")
    );
    let session = "-tls1_3 -sess_out agent.session";
    let first = talk(&openssl, &format!("{common} {session}"));
    assert!(
        first.contains("New, TLSv1.3") && first.contains("200 OK"),
        "{first}"
    );
    assert!(!first.contains("Session Ticket arrived"), "{first}");
    allowed(&agent, call("web_search")).await;

    revoke(&server).await;
    // The session of a TLS 1.3 connection without a ticket can be offered, but not resumed.
    if openssl.path("agent.session").exists() {
        let resumed = format!("{common} -tls1_3 -sess_in agent.session");
        let second = talk(&openssl, &resumed);
        assert!(!second.contains("Reused"), "{second}");
    }
    let older = talk(&openssl, &format!("{common} -tls1_2"));
    assert!(!older.contains("200 OK"), "{older}");
    // Its connection is open, and the next call on it is refused.
    denied(&agent, call("web_search")).await;
    agent.renew().await.expect_err("revoked");
}

async fn revoke(server: &Server) {
    let request = v1::RevokeRequest {
        agent: "research".to_owned(),
        ..Default::default()
    };
    let answer = server.admin().agents().revoke(request).await;
    answer.expect("revokes");
}

#[tokio::test]
async fn a_request_for_a_ca_and_another_name_gets_neither() {
    let openssl = OpenSsl::new();
    openssl.key("greedy");
    openssl.run(
        "req -new -config openssl.cnf -key greedy.key -outform DER -out greedy.csr \
         -subj /CN=admin -addext basicConstraints=critical,CA:TRUE \
         -addext keyUsage=critical,keyCertSign,cRLSign \
         -addext subjectAltName=URI:spiffe://zta.local/user/admin,DNS:localhost",
    );
    let wish = openssl.run("req -inform DER -in greedy.csr -noout -text");
    assert!(
        wish.contains("CA:TRUE") && wish.contains("user/admin"),
        "{wish}"
    );
    let server = Setup::sqlite().start().await;
    server.register("research", &["researcher"]).await;
    let request = v1::EnrollRequest {
        join_token: server.join_token("research").await,
        csr_der: std::fs::read(openssl.path("greedy.csr")).expect("a CSR"),
    };
    let mut anonymous = AgentServiceClient::new(anonymous(&server));
    let answer = anonymous.enroll(request).await.expect("enrols");
    let issued = answer.into_inner().certificate;
    let issued = issued.expect("a certificate").certificate_pem;
    std::fs::write(openssl.path("issued.pem"), issued).expect("written");
    let shown = openssl.run("x509 -in issued.pem -noout -text");
    assert!(
        shown.contains("URI:spiffe://zta.local/agent/research"),
        "{shown}"
    );
    assert!(shown.contains("CA:FALSE"), "{shown}");
    for wished in [
        "CA:TRUE",
        "user/admin",
        "CN = admin",
        "DNS:",
        "Certificate Sign",
        "CRL Sign",
    ] {
        assert!(!shown.contains(wished), "{wished}: {shown}");
    }
    // What it signs all the same is worth nothing.
    openssl.key("forged");
    std::fs::copy(openssl.path("issued.pem"), openssl.path("greedy.pem")).expect("copied");
    let extensions = "basicConstraints=critical,CA:FALSE\n";
    openssl.issue("forged", "greedy", extensions, 1);
    let ca = server.data().join("ca.pem");
    let verify = format!(
        "verify -CAfile {} -untrusted greedy.pem forged.pem",
        ca.display()
    );
    openssl.fails(&verify);
}
