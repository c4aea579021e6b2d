//! One machine without any credential holds connections open until there are no more.

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::Setup;
use crate::support::http::dial;
use crate::support::rpc::{allowed, call};

#[tokio::test]
async fn who_has_proved_nothing_holds_few_connections_open() {
    let setup = Setup::sqlite().set("ZTA_LIMITS__ANONYMOUS_CONNECTIONS_MAX", 8);
    let server = setup.start().await;
    let agent = server.agent("research", &["researcher"]).await;
    let ca = server.data().join("ca.pem");
    let mut held = Vec::new();
    let mut closed = 0;
    for _ in 0..24 {
        let Ok(mut silent) = dial(server.endpoint(), &ca, None, b"http/1.1").await else {
            closed += 1;
            continue;
        };
        // An answer, after which the connection stays open; or the end.
        let _ = silent
            .write_all(b"GET /livez HTTP/1.1\r\nhost: localhost\r\n\r\n")
            .await;
        match silent.read(&mut [0; 64]).await {
            Ok(read) if read > 0 => held.push(silent),
            _ => closed += 1,
        }
    }
    assert!(held.len() <= 8 && closed >= 16, "{} are open", held.len());
    allowed(&agent, call("web_search")).await;
}
