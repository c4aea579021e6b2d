//! Who cannot be anybody costs no memory: the answer comes before the message is read.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};

use crate::support::Setup;
use crate::support::http::connect;
use crate::support::rpc::refusals;

/// An HTTP/2 frame on a stream.
fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let mut frame = (payload.len() as u32).to_be_bytes()[1..].to_vec();
    frame.extend_from_slice(&[kind, flags]);
    frame.extend_from_slice(&stream.to_be_bytes());
    frame.extend_from_slice(payload);
    frame
}

/// The headers of a gRPC call, as HPACK literals that no table remembers.
fn headers(path: &str) -> Vec<u8> {
    // `:method: POST` and `:scheme: https` of the static table.
    let mut block = vec![0x83, 0x87];
    let type_ = "application/grpc";
    for (name, value) in [
        (":path", path),
        (":authority", "x"),
        ("content-type", type_),
    ] {
        block.extend_from_slice(&[0, name.len() as u8]);
        block.extend_from_slice(name.as_bytes());
        block.push(value.len() as u8);
        block.extend_from_slice(value.as_bytes());
    }
    frame(1, 4, 1, &block)
}

#[tokio::test]
async fn nobodys_message_is_not_read() {
    let server = Setup::sqlite().start().await;
    for method in ["AuthorizationService/Authorize", "PolicyService/Evaluate"] {
        let mut stream = connect(&server, b"h2").await;
        let mut call = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec();
        call.extend(frame(4, 0, 0, &[]));
        call.extend(headers(&format!("/zta.v1.{method}")));
        // The first bytes of a message of 8 MB whose rest never comes.
        call.extend(frame(0, 0, 1, &[0, 0, 0x7a, 0x12, 0, 1, 2, 3]));
        stream.write_all(&call).await.expect("written");
        let answered = async {
            let mut head = [0; 9];
            loop {
                stream.read_exact(&mut head).await.expect("a frame");
                let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
                let mut payload = vec![0; length as usize];
                stream.read_exact(&mut payload).await.expect("its payload");
                // Headers, or the end of the call's stream.
                if matches!(head[3], 1 | 3) && head[5..] == [0, 0, 0, 1] {
                    return head[3];
                }
            }
        };
        let kind = tokio::time::timeout(Duration::from_secs(5), answered).await;
        assert_eq!(kind.expect("an answer at once"), 1, "{method}");
    }
    assert_eq!(refusals(&server.admin(), "no client certificate").await, 2);
}
