//! The real server as a child process, on a store of its own.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use zta_client::{Client, Credential};
use zta_proto::v1;

use crate::{
    Result,
    database::Database,
    memory::{self, Memory},
};

/// Of a store with 100,000 policies or 1,000,000 entities too, on a busy machine.
const START_TIMEOUT: Duration = Duration::from_secs(180);
const STOP_TIMEOUT: Duration = Duration::from_secs(20);
/// Of one administrative call: applying thousands of policies takes its time.
const ADMIN_TIMEOUT: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);

/// The real server and its store. Both end with this value.
#[derive(Debug)]
pub struct RealServer {
    binary: PathBuf,
    database: Option<Database>,
    dir: tempfile::TempDir,
    child: Option<Child>,
    endpoint: String,
    /// Of a replica: the database and the keyring of the server beside it.
    shared: Option<(String, PathBuf)>,
}

impl RealServer {
    /// Starts `zta serve` on an embedded store, or on `database`.
    ///
    /// # Errors
    /// It did not come up; the message holds the end of its log.
    pub async fn start(
        binary: &Path,
        parent_dir: &Path,
        database: Option<Database>,
    ) -> Result<Self> {
        let dir = tempfile::Builder::new()
            .prefix("zta-bench.")
            .tempdir_in(parent_dir)?;
        write_private(&dir.path().join("keyring"), &random_hex()?)?;
        let mut server = Self {
            binary: binary.to_owned(),
            dir,
            database,
            child: None,
            endpoint: String::new(),
            shared: None,
        };
        if server.database.is_some() {
            server.run(&["migrate"])?;
        }
        server.launch().await?;
        Ok(server)
    }

    /// Another replica on this server's database. It must end before this one does.
    ///
    /// # Errors
    /// As [`Self::start`], and without a database.
    pub async fn replica(&self) -> Result<Self> {
        let database = self.database.as_ref().ok_or("the store has one process")?;
        let parent_dir = self.dir.path().parent().unwrap_or(Path::new("."));
        let mut replica = Self {
            binary: self.binary.clone(),
            dir: tempfile::Builder::new()
                .prefix("zta-bench.")
                .tempdir_in(parent_dir)?,
            database: None,
            child: None,
            endpoint: String::new(),
            shared: Some((database.url().to_owned(), self.dir.path().join("keyring"))),
        };
        replica.spawn().await?;
        Ok(replica)
    }

    /// Starts the process; also again, after [`Self::kill`] or [`Self::stop`].
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn launch(&mut self) -> Result<()> {
        self.spawn().await?;
        self.wait_until_ready().await
    }

    /// Starts the process and waits for its first decision, which `agent` asks for. The
    /// time between, from exec on.
    ///
    /// # Errors
    /// As [`Self::start`].
    pub async fn launch_to_decision(
        &mut self,
        agent: &Credential,
        request: &v1::AuthorizeRequest,
    ) -> Result<Duration> {
        let started = Instant::now();
        self.spawn().await?;
        let builder = Client::builder(agent.clone()).server(&self.endpoint);
        let client = builder.without_renewal().build()?;
        loop {
            match client.authorization().authorize(request.clone()).await {
                Ok(_) => return Ok(started.elapsed()),
                Err(status) if started.elapsed() > START_TIMEOUT => {
                    return Err(self.with_log(&format!("no decision: {status}")).into());
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    async fn spawn(&mut self) -> Result<()> {
        let data_dir = self.data_dir();
        if fs::exists(data_dir.join("endpoint"))? {
            // Of the process before, on another port.
            fs::remove_file(data_dir.join("endpoint"))?;
        }
        let log = File::options()
            .append(true)
            .create(true)
            .open(self.log_path())?;
        let mut child = self
            .command()
            .arg("serve")
            .stdin(Stdio::null())
            .stdout(log.try_clone()?)
            .stderr(log)
            .spawn()
            .map_err(|e| format!("cannot start `{}`: {e}", self.binary.display()))?;
        let found = wait_for_endpoint(&data_dir, &mut child).await;
        self.child = Some(child);
        self.endpoint = found.map_err(|e| self.with_log(&e.to_string()))?;
        Ok(())
    }

    /// An administrative call that succeeds: policies are in force, the audit is writable.
    async fn wait_until_ready(&self) -> Result<()> {
        let deadline = Instant::now() + START_TIMEOUT;
        let admin = self.admin()?;
        loop {
            let request = v1::GetRevisionRequest {
                number: 0,
                digests_only: true,
            };
            match admin.policies().get_revision(request).await {
                Ok(_) => return Ok(()),
                Err(status) if Instant::now() > deadline => {
                    return Err(self.with_log(&format!("not ready: {status}")).into());
                }
                Err(_) => tokio::time::sleep(POLL).await,
            }
        }
    }

    /// The administrator's client.
    ///
    /// # Errors
    /// The credential that the first start wrote cannot be used.
    pub fn admin(&self) -> Result<Client> {
        self.admin_at(self)
    }

    /// The same at another replica, which has no credential of its own.
    ///
    /// # Errors
    /// As [`RealServer::admin`].
    pub fn admin_at(&self, replica: &Self) -> Result<Client> {
        let credential = Credential::load(self.data_dir().join("admin"))?;
        let builder = Client::builder(credential).server(&replica.endpoint);
        Ok(builder.timeout(ADMIN_TIMEOUT).without_renewal().build()?)
    }

    /// The memory of the process.
    ///
    /// # Errors
    /// It does not run.
    pub fn memory(&self) -> Result<Memory> {
        let child = self.child.as_ref().ok_or("the server does not run")?;
        memory::of_process(child.id())
    }

    /// The processor time of the process since it started, in seconds.
    ///
    /// # Errors
    /// It does not run.
    pub fn cpu_s(&self) -> Result<f64> {
        let child = self.child.as_ref().ok_or("the server does not run")?;
        memory::cpu_s(child.id())
    }

    /// `host:port`.
    #[must_use]
    pub fn endpoint(&self) -> &str {
        &self.endpoint
    }

    /// The folder for what belongs to this run.
    #[must_use]
    pub fn dir(&self) -> &Path {
        self.dir.path()
    }

    pub(crate) fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    fn log_path(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// SIGKILL: no handler runs, nothing is flushed.
    ///
    /// # Errors
    /// There is no process.
    pub fn kill(&mut self) -> Result<()> {
        let mut child = self.child.take().ok_or("the server does not run")?;
        child.kill()?;
        child.wait()?;
        Ok(())
    }

    /// SIGTERM, and the time that draining takes.
    ///
    /// # Errors
    /// It did not end, or not well.
    pub async fn stop(&mut self) -> Result<()> {
        let mut child = self.child.take().ok_or("the server does not run")?;
        // By the shell's own: a small Debian has no `kill` program.
        let sent = Command::new("sh")
            .args(["-c", "kill -TERM \"$0\"", &child.id().to_string()])
            .status()?;
        let deadline = Instant::now() + STOP_TIMEOUT;
        while sent.success() && Instant::now() < deadline {
            if let Some(status) = child.try_wait()? {
                return match status.success() {
                    true => Ok(()),
                    false => Err(self.with_log(&format!("stopped with {status}")).into()),
                };
            }
            tokio::time::sleep(POLL).await;
        }
        child.kill()?;
        child.wait()?;
        Err(self.with_log("it did not stop when told to").into())
    }

    /// `zta audit verify` on the store.
    ///
    /// # Errors
    /// The log does not verify, or it could not be told.
    pub fn verify_audit(&self) -> Result<String> {
        self.run(&["audit", "verify"])
    }

    /// `zta audit export` into a new folder.
    ///
    /// # Errors
    /// It could not be written.
    pub fn export_audit(&self) -> Result<PathBuf> {
        let folder = self.dir.path().join("export");
        self.run(&["audit", "export", &folder.to_string_lossy()])?;
        Ok(folder)
    }

    /// `zta audit verify` on an export.
    ///
    /// # Errors
    /// It does not verify, or it could not be told.
    pub fn verify_export(&self, folder: &Path) -> Result<String> {
        self.run(&["audit", "verify", "--export", &folder.to_string_lossy()])
    }

    fn run(&self, arguments: &[&str]) -> Result<String> {
        let output = self.command().args(arguments).output()?;
        let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
        if !output.status.success() {
            let errors = String::from_utf8_lossy(&output.stderr);
            let what = arguments.join(" ");
            let status = output.status;
            return Err(format!("`zta {what}` ended with {status}: {text} {errors}").into());
        }
        Ok(text)
    }

    /// The binary with this run's settings and no other.
    fn command(&self) -> Command {
        let mut command = Command::new(&self.binary);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("ZTA_") {
                command.env_remove(name);
            }
        }
        command
            .current_dir(self.dir.path())
            .env("ZTA_DATA_DIR", self.data_dir())
            .env("ZTA_LISTEN", "127.0.0.1:0");
        if let Some(database) = &self.database {
            command
                .env("ZTA_DATABASE_URL", database.url())
                .env("ZTA_KEYRING_FILE", self.dir.path().join("keyring"));
        }
        if let Some((url, keyring)) = &self.shared {
            command
                .env("ZTA_DATABASE_URL", url)
                .env("ZTA_KEYRING_FILE", keyring);
        }
        command
    }

    fn with_log(&self, problem: &str) -> String {
        let log = fs::read_to_string(self.log_path()).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = &lines[lines.len().saturating_sub(20)..];
        format!("the server: {problem}\n{}", tail.join("\n"))
    }
}

/// The process first: after this the database is dropped, then the folder.
impl Drop for RealServer {
    fn drop(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// 48 random bytes: the server refuses a keyring secret that looks made up.
fn random_hex() -> Result<String> {
    use std::io::Read as _;
    let mut bytes = [0; 48];
    File::open("/dev/urandom")?.read_exact(&mut bytes)?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

fn write_private(path: &Path, content: &str) -> Result<()> {
    use std::{io::Write as _, os::unix::fs::OpenOptionsExt as _};
    let mut file = File::options()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)?;
    file.write_all(content.as_bytes())?;
    Ok(())
}

/// What a server writes into `endpoint` when it listens.
pub(crate) async fn wait_for_endpoint(dir: &Path, child: &mut Child) -> Result<String> {
    let deadline = Instant::now() + START_TIMEOUT;
    loop {
        let text = fs::read_to_string(dir.join("endpoint")).unwrap_or_default();
        if text.trim().parse::<std::net::SocketAddr>().is_ok() {
            return Ok(text.trim().to_owned());
        }
        if let Some(status) = child.try_wait()? {
            return Err(format!("it ended with {status} before it listened").into());
        }
        if Instant::now() > deadline {
            return Err("it does not listen".into());
        }
        tokio::time::sleep(POLL).await;
    }
}
