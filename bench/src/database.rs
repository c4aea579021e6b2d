//! A Postgres database for one run.

use std::io::Write as _;

use sqlx::{Connection as _, PgConnection};

use crate::Result;

/// A database that is dropped with this value.
#[derive(Debug)]
pub struct Database {
    administrator_url: String,
    name: String,
    url: String,
}

impl Database {
    /// Creates a database on the server of `administrator_url`. `name` is unique for the
    /// run: lower-case letters, digits and `_`.
    ///
    /// # Errors
    /// Postgres refuses.
    pub async fn create(administrator_url: &str, name: &str) -> Result<Self> {
        let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_';
        if name.is_empty() || !name.chars().all(plain) {
            return Err(format!("`{name}` is not a plain database name").into());
        }
        execute(administrator_url, format!("CREATE DATABASE {name}")).await?;
        Ok(Self {
            administrator_url: administrator_url.to_owned(),
            name: name.to_owned(),
            url: with_database(administrator_url, name)?,
        })
    }

    /// The URL of this database.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }
}

impl Drop for Database {
    fn drop(&mut self) {
        let url = self.administrator_url.clone();
        let statement = format!("DROP DATABASE {} WITH (FORCE)", self.name);
        // A runtime must not be waited for inside another one.
        let dropping = std::thread::spawn(move || {
            tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()?
                .block_on(execute(&url, statement))
        });
        let problem = match dropping.join() {
            Ok(Ok(())) => return,
            Ok(Err(error)) => error.to_string(),
            Err(_) => "a panic".to_owned(),
        };
        let _ = writeln!(
            std::io::stderr(),
            "database `{}` could not be dropped: {problem}",
            self.name
        );
    }
}

async fn execute(url: &str, statement: String) -> Result<()> {
    let mut connection = PgConnection::connect(url).await?;
    sqlx::raw_sql(sqlx::AssertSqlSafe(statement))
        .execute(&mut connection)
        .await?;
    connection.close().await?;
    Ok(())
}

/// The URL with another database in its path.
fn with_database(url: &str, name: &str) -> Result<String> {
    let (base, query) = match url.split_once('?') {
        Some((base, query)) => (base, format!("?{query}")),
        None => (url, String::new()),
    };
    let after_scheme = base.find("://").map(|at| at + 3);
    let host_from = after_scheme.ok_or("the Postgres URL has no scheme")?;
    let host_to = base[host_from..]
        .find('/')
        .map_or(base.len(), |at| host_from + at);
    Ok(format!("{}/{name}{query}", &base[..host_to]))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_database_is_replaced_and_nothing_else() {
        for (url, expected) in [
            (
                "postgres://u@h/postgres?host=/tmp/x",
                "postgres://u@h/n?host=/tmp/x",
            ),
            ("postgres://u:p@h:5432", "postgres://u:p@h:5432/n"),
            (
                "postgresql:///postgres?host=/a/b",
                "postgresql:///n?host=/a/b",
            ),
        ] {
            assert_eq!(with_database(url, "n").expect(url), expected);
        }
        assert!(with_database("nothing", "n").is_err());
    }
}
