//! The real server as a child process. It ends with the test, whatever becomes of it.

use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Output, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use tempfile::TempDir;
use zta_client::{Client, Credential, v1};

use super::{CREW, Database, SOON, policy_folder};

/// The secret that a fleet wraps its keys with. Only tests use it.
const KEYRING: &str = "q8J2mZ0vXe7Rk4Tn1Wc9Ys5Bd3Fh6Gp0-for-tests-only";

/// What a server is told before it starts.
pub(crate) struct Setup {
    database: Database,
    settings: Vec<(String, String)>,
    policies: Vec<String>,
    /// The text of a configuration file.
    config: Option<String>,
    /// A policy file beside those of the folders.
    policy: Option<String>,
    file_size_signal: bool,
    /// How many events a partition holds on Postgres.
    partition_width: Option<u32>,
}

impl Setup {
    /// On this database, with the policies of the repository and of the demo crew.
    pub(crate) fn on(database: Database) -> Self {
        Self {
            database,
            settings: Vec::new(),
            policies: CREW.map(str::to_owned).to_vec(),
            config: None,
            policy: None,
            file_size_signal: true,
            partition_width: None,
        }
    }

    /// With partitions that are sooner full than those of a user.
    pub(crate) fn partition_width(mut self, events: u32) -> Self {
        self.partition_width = Some(events);
        self
    }

    /// A write beyond the limit of file sizes is an error, as on a full disk, and not the
    /// end of the process.
    pub(crate) fn ignoring_file_size_signal(mut self) -> Self {
        self.file_size_signal = false;
        self
    }

    /// On SQLite.
    pub(crate) fn sqlite() -> Self {
        Self::on(Database::Sqlite)
    }

    /// Sets a variable, for example `ZTA_LOG_FORMAT`.
    pub(crate) fn set(mut self, name: &str, value: impl ToString) -> Self {
        self.settings.push((name.to_owned(), value.to_string()));
        self
    }

    /// The policy folders of the repository to start with.
    pub(crate) fn policies(mut self, folders: &[&str]) -> Self {
        self.policies = folders.iter().map(|&f| f.to_owned()).collect();
        self
    }

    /// Settings that no variable can hold.
    pub(crate) fn config(mut self, text: &str) -> Self {
        self.config = Some(text.to_owned());
        self
    }

    /// A policy of the test's own.
    pub(crate) fn policy(mut self, text: &str) -> Self {
        self.policy = Some(text.to_owned());
        self
    }

    /// Starts the server and waits until it listens.
    pub(crate) async fn start(self) -> Server {
        let folder = tempfile::Builder::new()
            .prefix("zta-it-")
            .tempdir()
            .expect("a folder");
        let sources: Vec<&str> = self.policies.iter().map(String::as_str).collect();
        let policies = policy_folder(folder.path(), &sources);
        if let Some(policy) = &self.policy {
            std::fs::write(policies.join("own.cedar"), policy).expect("a policy");
        }
        let mut settings = vec![(
            "ZTA_POLICY_DIR".to_owned(),
            policies.to_string_lossy().into_owned(),
        )];
        if let Some(config) = &self.config {
            let file = folder.path().join("zta.toml");
            std::fs::write(&file, config).expect("a configuration");
            settings.push(("ZTA_CONFIG".to_owned(), file.display().to_string()));
        }
        settings.extend(self.settings);
        let mut server = Server::new(folder, Arc::new(self.database), settings);
        server.file_size_signal = self.file_size_signal;
        if let Database::Postgres(database) = &*server.database {
            let mut migrate = server.command(&["migrate"]);
            migrate.env("ZTA_DATABASE_URL", database.superuser_url());
            let output = migrate.output().expect("zta migrate");
            assert!(output.status.success(), "migrate: {}", text(&output.stderr));
            if let Some(width) = self.partition_width {
                database.partitions_of(width).await;
            }
        }
        server.start().await;
        server
    }
}

/// A running server, or one that a test has stopped.
pub(crate) struct Server {
    folder: TempDir,
    pub(crate) database: Arc<Database>,
    settings: Vec<(String, String)>,
    file_size_signal: bool,
    child: Option<Child>,
    log: Arc<Mutex<String>>,
    endpoint: String,
    /// The replica that made the administrator.
    admin: PathBuf,
}

impl Server {
    fn new(folder: TempDir, database: Arc<Database>, mut settings: Vec<(String, String)>) -> Self {
        let mut set = |name: &str, value: String| settings.push((name.to_owned(), value));
        set(
            "ZTA_DATA_DIR",
            folder.path().join("data").to_string_lossy().into_owned(),
        );
        if let Database::Postgres(fresh) = &*database {
            let keyring = folder.path().join("keyring");
            std::fs::write(&keyring, KEYRING).expect("keyring");
            set("ZTA_DATABASE_URL", fresh.server_url());
            set("ZTA_KEYRING_FILE", keyring.to_string_lossy().into_owned());
        }
        Self {
            admin: folder.path().join("data/admin"),
            folder,
            database,
            settings,
            file_size_signal: true,
            child: None,
            log: Arc::default(),
            endpoint: "127.0.0.1:0".to_owned(),
        }
    }

    /// Another replica on this server's database.
    pub(crate) async fn replica(&self) -> Self {
        let folder = tempfile::Builder::new()
            .prefix("zta-it-")
            .tempdir()
            .expect("a folder");
        let mut other = Self::new(folder, Arc::clone(&self.database), Vec::new());
        other.admin.clone_from(&self.admin);
        other.start().await;
        other
    }

    /// Sets another variable for the next start.
    pub(crate) fn configure(&mut self, name: &str, value: &str) {
        self.settings.push((name.to_owned(), value.to_owned()));
    }

    /// `zta` with this server's environment and no other variable.
    pub(crate) fn command(&self, arguments: &[&str]) -> Command {
        let zta = env!("CARGO_BIN_EXE_zta");
        let mut command = if self.file_size_signal {
            Command::new(zta)
        } else {
            let mut command = Command::new("sh");
            command.args(["-c", "trap '' XFSZ; exec \"$0\" \"$@\"", zta]);
            command
        };
        command
            .args(arguments)
            .env_clear()
            .env("ZTA_CREDENTIAL", &self.admin)
            .env("ZTA_SERVER", &self.endpoint)
            .current_dir(self.folder.path())
            .stdin(Stdio::null());
        for (name, value) in &self.settings {
            command.env(name, value);
        }
        command
    }

    /// Sets a variable for the commands and starts to come.
    pub(crate) fn set(&mut self, name: &str, value: impl ToString) {
        self.settings.push((name.to_owned(), value.to_string()));
    }

    /// Runs `zta` to its end.
    pub(crate) fn zta(&self, arguments: &[&str]) -> Output {
        self.command(arguments).output().expect("zta runs")
    }

    /// Starts (again) and waits until it listens; a port once taken is kept.
    pub(crate) async fn start(&mut self) {
        self.start_with(&[]).await;
    }

    /// The same with arguments for `zta serve`.
    pub(crate) async fn start_with(&mut self, arguments: &[&str]) {
        let announced = self.data().join("endpoint");
        self.log().clear();
        let _ = std::fs::remove_file(&announced);
        let mut child = self
            .command(&["serve"])
            .args(arguments)
            .env("ZTA_LISTEN", &self.endpoint)
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .expect("zta serve");
        let stderr = BufReader::new(child.stderr.take().expect("stderr"));
        let log = Arc::clone(&self.log);
        std::thread::spawn(move || {
            for line in stderr.lines().map_while(Result::ok) {
                let mut log = log.lock().unwrap_or_else(PoisonError::into_inner);
                log.push_str(&line);
                log.push('\n');
            }
        });
        self.child = Some(child);
        let deadline = std::time::Instant::now() + SOON;
        // The address is written before the administrator's folder is complete.
        while !announced.exists() || !self.log().contains("listening") {
            let ended = self
                .child
                .as_mut()
                .and_then(|c| c.try_wait().ok())
                .flatten();
            assert!(ended.is_none(), "zta serve ended:\n{}", *self.log());
            assert!(
                std::time::Instant::now() < deadline,
                "zta serve is not up:\n{}",
                *self.log()
            );
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.endpoint = std::fs::read_to_string(&announced).expect("endpoint");
    }

    /// What it has logged so far.
    pub(crate) fn log(&self) -> MutexGuard<'_, String> {
        self.log.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// `host:port`.
    pub(crate) fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The test's own folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// The server's data folder.
    pub(crate) fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    /// The process id.
    pub(crate) fn pid(&self) -> u32 {
        self.child.as_ref().expect("a running server").id()
    }

    /// Sends SIGTERM.
    pub(crate) fn terminate(&self) {
        let pid = self.pid().to_string();
        let sent = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &pid])
            .status();
        assert!(sent.expect("sh").success(), "SIGTERM");
    }

    /// Waits until it has ended by itself.
    pub(crate) async fn ended(&mut self) -> ExitStatus {
        let mut child = self.child.take().expect("a running server");
        let deadline = std::time::Instant::now() + SOON;
        loop {
            if let Some(status) = child.try_wait().expect("wait") {
                return status;
            }
            if std::time::Instant::now() > deadline {
                let _ = child.kill();
                panic!("zta serve does not end:\n{}", *self.log());
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }

    /// Stops it as an operator does.
    pub(crate) async fn stop(&mut self) -> ExitStatus {
        self.terminate();
        self.ended().await
    }

    /// kill -9.
    pub(crate) fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// A client under an identity, for this replica.
    pub(crate) fn client(&self, credential: Credential) -> Client {
        let builder = Client::builder(credential).server(&self.endpoint);
        // Renewals of its own accord would be calls that no test made.
        let builder = builder.timeout(SOON).without_renewal();
        builder.build().expect("a client")
    }

    /// The administrator's client.
    pub(crate) fn admin(&self) -> Client {
        self.client(Credential::load(&self.admin).expect("the administrator's credential"))
    }

    /// Registers an agent.
    pub(crate) async fn register(&self, name: &str, roles: &[&str]) {
        let request = v1::RegisterRequest {
            name: name.to_owned(),
            roles: roles.iter().map(|&role| role.to_owned()).collect(),
            owner: "owner".to_owned(),
            ..Default::default()
        };
        self.admin()
            .agents()
            .register(request)
            .await
            .expect("registers");
    }

    /// A join token for an agent.
    pub(crate) async fn join_token(&self, agent: &str) -> String {
        let request = v1::CreateJoinTokenRequest {
            agent: agent.to_owned(),
        };
        let answer = self.admin().agents().create_join_token(request).await;
        answer.expect("a join token").into_inner().join_token
    }

    /// Enrols another key of a registered agent.
    pub(crate) async fn enroll(&self, name: &str) -> Credential {
        let token = self.join_token(name).await;
        let folder = self
            .folder()
            .join(format!("agent-{name}-{}", uuid::Uuid::new_v4()));
        zta_client::enroll(&self.endpoint, &token, folder)
            .await
            .expect("enrols")
    }

    /// A new agent's client.
    pub(crate) async fn agent(&self, name: &str, roles: &[&str]) -> Client {
        self.client(self.enrolled(name, roles).await)
    }

    /// A new agent.
    pub(crate) async fn enrolled(&self, name: &str, roles: &[&str]) -> Credential {
        self.register(name, roles).await;
        self.enroll(name).await
    }

    /// Runs `zta audit verify` with `--json`; the exit code and what it said.
    pub(crate) fn verify(&self) -> (i32, String) {
        let output = self.zta(&["audit", "verify", "--json"]);
        let said = text(&output.stdout) + &text(&output.stderr);
        (output.status.code().expect("an exit code"), said)
    }

    /// Fails the test unless the whole log verifies.
    pub(crate) fn assert_verifies(&self) {
        let (code, said) = self.verify();
        assert_eq!(code, 0, "{}: {said}", self.database.name());
    }
}

impl Drop for Server {
    #[allow(
        clippy::print_stderr,
        reason = "a failed test shows what the server said"
    )]
    fn drop(&mut self) {
        self.kill();
        if std::thread::panicking() {
            let log = self.log();
            let tail: Vec<&str> = log.lines().rev().take(30).collect();
            let tail: Vec<&str> = tail.into_iter().rev().collect();
            eprintln!("--- the server's last lines\n{}", tail.join("\n"));
        }
    }
}

/// Output as text.
pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}
