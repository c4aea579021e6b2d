//! A function behind a guard.
//!
//! `ZTA_CREDENTIAL=identities/research cargo run -p zta-client --example guard -- "zero trust"`

use zta_client::{Client, Guard};

async fn web_search(query: &str) -> Vec<String> {
    vec![format!("a page about {query}")]
}

#[tokio::main]
#[expect(clippy::print_stdout, reason = "an example")]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let query = std::env::args().nth(1).unwrap_or_default();
    let guard = Guard::new(Client::from_env()?).session("example");

    let arguments = serde_json::json!({ "query": query });
    let call = guard.run("web_search", &arguments, || web_search(&query));
    match call.await {
        Ok(pages) => println!("{pages:?}"),
        // The tool did not run. This sentence is fit for the model to read.
        Err(denied) => println!("{denied}"),
    }
    Ok(())
}
