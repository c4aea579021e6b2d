//! Lists through the door: each filter, honest pages, and tokens that fit their query only.

use serde_json::Value;
use zta_client::{Client, v1};

use crate::support::rpc::{authorize, call, refused};
use crate::support::{Database, Server, Setup};

const RESEARCH: &str = "spiffe://zta.local/agent/research";
const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";

type Request = v1::ListEventsRequest;

async fn list(admin: &Client, request: Request) -> Result<v1::ListEventsResponse, tonic::Status> {
    let answer = admin.audit().list_events(request).await;
    answer.map(tonic::Response::into_inner)
}

/// All pages, and how many there were.
async fn pages(admin: &Client, mut request: Request) -> (Vec<(u64, Value)>, usize) {
    let (mut events, mut count) = (Vec::new(), 0);
    loop {
        let answer = list(admin, request.clone()).await.expect("a page");
        count += 1;
        events.extend(answer.events.iter().map(|event| {
            let leaf: Value = serde_json::from_slice(&event.leaf).expect("a leaf");
            (event.sequence, leaf)
        }));
        if answer.next_page_token.is_empty() {
            return (events, count);
        }
        request.page_token = answer.next_page_token;
    }
}

/// Decisions of two agents that say all there is to say.
async fn crew(server: &Server) -> [Client; 2] {
    let crew = [
        server.agent("research", &["researcher"]).await,
        server.agent("writing", &["writer"]).await,
    ];
    for round in 0..4 {
        for (client, tool) in crew.iter().zip(["web_search", "write_report"]) {
            let mut request = call(if round == 3 { "unknown" } else { tool });
            request.session_id = format!("session-{}", round % 2);
            request.task_id = format!("task-{round}");
            request.user = format!("user-{}", round / 2);
            request.correlation_id = format!("call-{round}");
            if round == 1 {
                request.traceparent = format!("00-{TRACE}-b7ad6b7169203331-01");
            }
            let answer = client.authorization().authorize(request).await;
            answer.expect("a decision");
        }
    }
    crew
}

fn text<'a>(leaf: &'a Value, pointer: &str) -> &'a str {
    leaf.pointer(pointer)
        .and_then(Value::as_str)
        .unwrap_or_default()
}

#[tokio::test]
async fn each_filter_finds_what_it_names_and_nothing_else() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let _crew = crew(&server).await;
        let admin = server.admin();
        let (everything, _) = pages(&admin, Request::default()).await;
        let decisions: Vec<_> = everything
            .iter()
            .filter(|(_, e)| e["type"] == "decision")
            .collect();
        assert_eq!(decisions.len(), 8);
        let policy = decisions
            .iter()
            .find_map(|(_, e)| e["policies"][0].as_str());
        let policy = policy.expect("a policy decided").to_owned();
        let any = Request::default;
        let cases: [(&str, &str, Request); 9] = [
            (
                "/actor/id",
                RESEARCH,
                Request {
                    actor_id: RESEARCH.into(),
                    ..any()
                },
            ),
            (
                "/session",
                "session-1",
                Request {
                    session_id: "session-1".into(),
                    ..any()
                },
            ),
            (
                "/task",
                "task-2",
                Request {
                    task_id: "task-2".into(),
                    ..any()
                },
            ),
            (
                "/user",
                "user-1",
                Request {
                    user_id: "user-1".into(),
                    ..any()
                },
            ),
            (
                "/correlation_id",
                "call-3",
                Request {
                    correlation_id: "call-3".into(),
                    ..any()
                },
            ),
            (
                "/resource/id",
                "unknown",
                Request {
                    resource_id: "unknown".into(),
                    ..any()
                },
            ),
            (
                "/trace_id",
                TRACE,
                Request {
                    trace_id: TRACE.into(),
                    ..any()
                },
            ),
            (
                "/reason",
                "NOT_PERMITTED",
                Request {
                    reason: "NOT_PERMITTED".into(),
                    ..any()
                },
            ),
            (
                "/policies/0",
                &policy,
                Request {
                    policy_id: policy.clone(),
                    ..any()
                },
            ),
        ];
        for (pointer, value, request) in cases {
            let (found, _) = pages(&admin, request).await;
            assert!(
                found.iter().all(|(_, leaf)| text(leaf, pointer) == value),
                "{pointer}"
            );
            let expected = everything
                .iter()
                .filter(|(_, leaf)| text(leaf, pointer) == value);
            let expected: Vec<u64> = expected.map(|(sequence, _)| *sequence).collect();
            let known = found.iter().map(|(sequence, _)| *sequence);
            // What came after the first list is newer than everything in it.
            let known: Vec<u64> = known
                .filter(|s| *s <= everything.last().unwrap().0)
                .collect();
            assert!(
                !expected.is_empty() && known == expected,
                "{pointer}: {known:?} {expected:?}"
            );
        }
        let action = Request {
            action_id: "register_agent".into(),
            revision: Some(1),
            ..any()
        };
        assert_eq!(pages(&admin, action).await.0.len(), 2);
        let other = Request {
            action_id: "register_agent".into(),
            revision: Some(2),
            ..any()
        };
        assert!(pages(&admin, other).await.0.is_empty());
    }
}

#[tokio::test]
async fn pages_are_of_one_moment_and_neither_shift_nor_repeat() {
    for database in Database::both().await {
        let server = Setup::on(database).start().await;
        let [research, _writing] = crew(&server).await;
        let admin = server.admin();
        for descending in [false, true] {
            let mut request = Request {
                page_size: 3,
                descending,
                ..Default::default()
            };
            let (mut seen, mut until) = (Vec::new(), Vec::new());
            loop {
                let answer = list(&admin, request.clone()).await.expect("a page");
                assert!(answer.events.len() <= 3);
                seen.extend(answer.events.iter().map(|event| event.sequence));
                until.push(answer.scanned_until);
                if answer.next_page_token.is_empty() {
                    break;
                }
                request.page_token = answer.next_page_token;
                // The log grows between pages, by this look and by others.
                authorize(&research, call("web_search"))
                    .await
                    .expect("a decision");
            }
            if descending {
                assert!(until.is_sorted_by(|a, b| a > b) && until.last() == Some(&0));
                seen.reverse();
            } else {
                assert!(until.is_sorted_by(|a, b| a < b));
                assert_eq!(*until.last().unwrap(), seen.len() as u64);
            }
            assert_eq!(
                seen,
                (0..seen.len() as u64).collect::<Vec<_>>(),
                "each once, no gap"
            );
        }
        let from = Request {
            start_sequence: 5,
            ..Default::default()
        };
        assert_eq!(pages(&admin, from).await.0[0].0, 5);
        let beyond = Request {
            start_sequence: u64::MAX,
            ..Default::default()
        };
        assert!(pages(&admin, beyond).await.0.is_empty());
    }
}

#[tokio::test]
async fn a_page_token_fits_the_query_that_it_was_given_for_and_no_other() {
    let server = Setup::sqlite().start().await;
    let _crew = crew(&server).await;
    let admin = server.admin();
    let asked = Request {
        page_size: 1,
        types: vec!["decision".into()],
        ..Default::default()
    };
    let first = list(&admin, asked.clone()).await.expect("a page");
    let token = first.next_page_token;
    let with = |change: &dyn Fn(&mut Request)| {
        let mut request = Request {
            page_token: token.clone(),
            ..asked.clone()
        };
        change(&mut request);
        request
    };
    let others: [&dyn Fn(&mut Request); 8] = [
        &|r| r.descending = true,
        &|r| r.types = vec!["admin".into()],
        &|r| r.types.clear(),
        &|r| r.session_id = "session-0".into(),
        &|r| r.revision = Some(0),
        &|r| r.start_sequence = 1,
        &|r| r.effect = v1::Effect::Deny.into(),
        &|r| {
            r.end_time = Some(prost_types::Timestamp {
                seconds: 1 << 32,
                nanos: 0,
            })
        },
    ];
    for change in others {
        assert_eq!(
            refused(list(&admin, with(change)).await),
            "PAGE_TOKEN_INVALID"
        );
    }
    // Forged, cut, altered.
    let mut forged = vec![
        "5".to_owned(),
        "x".to_owned(),
        format!("{token}A"),
        token[1..].to_owned(),
    ];
    for at in 0..token.len() {
        let mut altered = token.clone().into_bytes();
        altered[at] = if altered[at] == b'A' { b'B' } else { b'A' };
        forged.push(String::from_utf8(altered).expect("ASCII"));
    }
    for token in forged {
        let request = Request {
            page_token: token,
            ..asked.clone()
        };
        assert_eq!(refused(list(&admin, request).await), "PAGE_TOKEN_INVALID");
    }
    // How many to a page is no part of the query.
    let rest = list(&admin, with(&|r| r.page_size = 100))
        .await
        .expect("a page");
    assert_eq!(rest.events.len(), 7);
}

#[tokio::test]
async fn a_page_token_of_one_replica_is_good_at_another() {
    let first = Setup::on(Database::postgres().await).start().await;
    let second = first.replica().await;
    let asked = Request {
        page_size: 2,
        ..Default::default()
    };
    let page = list(&first.admin(), asked.clone()).await.expect("a page");
    let next = Request {
        page_token: page.next_page_token,
        ..asked
    };
    let page = list(&second.admin(), next).await.expect("a page");
    assert_eq!(page.events[0].sequence, 2);
}

#[tokio::test]
async fn a_responder_finds_what_an_agent_did_in_the_last_hour_in_one_command() {
    let server = Setup::sqlite().start().await;
    let _crew = crew(&server).await;
    let said = |arguments: &[&str]| {
        let output = server.zta(&[&["audit", "list"], arguments].concat());
        assert!(
            output.status.success(),
            "{}",
            crate::support::server::text(&output.stderr)
        );
        crate::support::server::text(&output.stdout)
    };
    let hour = said(&["--agent", "research", "--since", "1h", "--json"]);
    let leaves = hour
        .lines()
        .map(|l| serde_json::from_str::<Value>(l).expect("JSON"));
    let leaves: Vec<Value> = leaves.collect();
    assert!(leaves.iter().all(|l| l["event"]["actor"]["id"] == RESEARCH));
    assert_eq!(
        leaves
            .iter()
            .filter(|l| l["event"]["type"] == "decision")
            .count(),
        4
    );
    assert_eq!(
        said(&["--agent", "research", "--until", "1h", "--json"]),
        ""
    );
    let narrow = [
        "--session",
        "session-1",
        "--task",
        "task-3",
        "--denied",
        "--reason",
        "NOT_PERMITTED",
    ];
    assert_eq!(
        said(&[&narrow[..], &["--json"]].concat()).lines().count(),
        2
    );
    let table = said(&["--trace", TRACE]);
    assert_eq!(table.lines().count(), 3, "{table}");
    assert!(table.starts_with("SEQ"), "{table}");
    let wrong = server.zta(&["audit", "list", "--since", "soon"]);
    assert_eq!(wrong.status.code(), Some(2));
}
