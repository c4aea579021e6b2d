//! Canaries: secrets that are sent to a server must stand in no row and in no log line.

use sqlx::AssertSqlSafe;
use zta_client::v1;

use super::intruder::Intruder;
use crate::support::rpc::{authorize, authorize_with_token, call, call_with};
use crate::support::{Database, Server, Setup};

const PASSWORD: &str = "canary-password-8d1f";
const NESTED: &str = "canary-nested-51c0";
const LISTED: &str = "canary-listed-77aa";
const CONTEXT: &str = "canary-context-02be";
const UNREADABLE: &str = "canary-unreadable-9e3d";
/// Under no redacted path: kept among the inputs, which replay needs, and nowhere else.
const QUERY: &str = "canary-query-c41f";

/// Every row of every table as text, or the database file as it is.
pub(super) async fn rows(server: &Server) -> Vec<u8> {
    match &*server.database {
        Database::Sqlite => ["zta.db", "zta.db-wal"]
            .iter()
            .flat_map(|file| std::fs::read(server.data().join(file)).unwrap_or_default())
            .collect(),
        Database::Postgres(database) => {
            let mut connection = database.intruder().await;
            let tables: Vec<String> = sqlx::query_scalar(
                "SELECT table_name::text FROM information_schema.tables WHERE table_schema = 'public'",
            )
            .fetch_all(&mut connection)
            .await
            .expect("tables");
            assert!(tables.len() > 8, "{tables:?}");
            let mut all = Vec::new();
            for table in tables {
                let sql = format!("SELECT t::text FROM {table} AS t");
                let rows: Vec<String> = sqlx::query_scalar(AssertSqlSafe(sql))
                    .fetch_all(&mut connection)
                    .await
                    .expect("rows");
                for row in rows {
                    all.extend(row.bytes());
                    // Bytes are shown in hex: as a reader would decode them, too.
                    for piece in row.split("\\x").skip(1) {
                        let digits: String =
                            piece.chars().take_while(char::is_ascii_hexdigit).collect();
                        all.extend(hex::decode(digits).unwrap_or_default());
                    }
                }
            }
            all
        }
    }
}

fn holds(haystack: &[u8], needle: &str) -> bool {
    haystack
        .windows(needle.len())
        .any(|window| window == needle.as_bytes())
}

/// Calls with secrets at every place that is redacted.
async fn tell_secrets(server: &Server) -> Vec<String> {
    let research = server.agent("research", &["researcher"]).await;
    let join_token = server.join_token("research").await;
    let second = server.folder().join("second");
    zta_client::enroll(server.endpoint(), &join_token, &second)
        .await
        .expect("enrols");
    let unused = server.join_token("research").await;
    let token = research.authenticate().await.expect("a token").access_token;
    let arguments = serde_json::json!({
        "password": PASSWORD,
        "a": {"b": [{"API_KEY": NESTED}]},
        "secret": [LISTED, {"x": LISTED}],
        "query": QUERY,
    });
    let request = call_with("web_search", arguments.to_string());
    let answer = authorize_with_token(&research, request, &token)
        .await
        .expect("a decision");
    assert_eq!(answer.effect(), v1::Effect::Allow);
    let in_context = v1::AuthorizeRequest {
        context_json: serde_json::json!({ "password": CONTEXT })
            .to_string()
            .into_bytes(),
        ..call("web_search")
    };
    authorize(&research, in_context).await.expect("a decision");
    let unreadable = format!("{{\"{UNREADABLE}\": {UNREADABLE}");
    authorize(&research, call_with("web_search", unreadable))
        .await
        .expect("a decision");
    let wrong = format!("{token}x");
    authorize_with_token(&research, call("web_search"), &wrong)
        .await
        .expect_err("refused");
    let key = std::fs::read_to_string(second.join("key.pem")).expect("a key");
    let secret = |token: &str| token.split('.').nth(2).expect("a secret").to_owned();
    vec![
        secret(&join_token),
        secret(&unused),
        token.rsplit('.').next().expect("a signature").to_owned(),
        token.split('.').nth(1).expect("claims").to_owned(),
        key.lines().nth(1).expect("a line of the key").to_owned(),
    ]
}

#[tokio::test]
async fn no_secret_stands_in_a_row_or_a_log_line() {
    for (database, format) in Database::both().await.into_iter().zip(["human", "json"]) {
        let name = database.name();
        let setup = Setup::on(database)
            .set("ZTA_LOG_FORMAT", format)
            .set("ZTA_LOG_LEVEL", "trace");
        let mut server = setup.start().await;
        let mut secrets = tell_secrets(&server).await;
        secrets.extend([PASSWORD, NESTED, LISTED, CONTEXT, UNREADABLE].map(str::to_owned));
        assert!(server.stop().await.success());

        let stored = rows(&server).await;
        let log = server.log().clone();
        assert!(
            holds(&stored, "[redacted]") && holds(&stored, QUERY),
            "{name}: inputs are kept"
        );
        assert!(log.contains("listening"), "{name}: the log was read");
        for secret in &secrets {
            assert!(!holds(&stored, secret), "{name}: `{secret}` is stored");
        }
        for secret in secrets.iter().map(String::as_str).chain([QUERY]) {
            let line = log.lines().find(|line| line.contains(secret));
            assert_eq!(line, None, "{name}: `{secret}` is logged");
        }
        if format == "json" {
            for line in log.lines() {
                serde_json::from_str::<serde_json::Value>(line)
                    .unwrap_or_else(|e| panic!("{line}: {e}"));
            }
        } else {
            assert!(!log.contains('\u{1b}'), "no colours in a pipe");
        }
        let mut intruder = Intruder::open(&server).await;
        let leaves = intruder
            .bytes("SELECT leaf FROM audit_events")
            .await
            .concat();
        assert!(!holds(&leaves, QUERY), "{name}: a leaf holds no argument");
    }
}
