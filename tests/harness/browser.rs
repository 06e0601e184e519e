//! A real browser on an instance: headless Chromium, driven by its chromedriver
//! (<https://www.w3.org/TR/webdriver2/>).

use std::fs::File;
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use base64::Engine as _;
use nix::sched::{CloneFlags, setns};
use serde_json::{Value, json};
use skep_sim::fleet::Instance;

/// Where chromedriver listens, on the instance's loopback.
const PORT: u16 = 9515;
/// The accessibility checker, as scripts/setup.sh installs it.
const AXE: &str = "../target/tools/axe-core/axe.min.js";
/// Starting a browser takes long on a machine that is busy with other tests.
const PATIENCE: Duration = Duration::from_secs(90);

/// Chromium has no sandbox for root; the other flags stop requests to hosts that the test does not name.
const FLAGS: [&str; 9] = [
    "--headless=new",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
];

/// Debian packages that the tests of the page need. Ubuntu has them as snaps only, which do not run in an instance.
const PROGRAMS: [&str; 2] = ["/usr/bin/chromium", "/usr/bin/chromedriver"];

/// One browser window; it ends with its instance.
pub struct Browser {
    netns: PathBuf,
    session: String,
}

impl Browser {
    /// Whether this machine has the programs. Prints the missing ones.
    ///
    /// # Errors
    /// In CI, when one is missing.
    pub fn possible() -> anyhow::Result<bool> {
        let missing: Vec<_> =
            PROGRAMS.iter().filter(|program| !Path::new(program).exists()).copied().collect();
        let missing = missing.join(" and ");
        let is_ci = std::env::var("CI").is_ok_and(|ci| ci == "true");
        ensure!(missing.is_empty() || !is_ci, "there is no {missing}");
        if !missing.is_empty() {
            // Directly to stderr: the test runner hides the output of a test that passes.
            writeln!(std::io::stderr(), "skipped: there is no {missing}")?;
        }
        Ok(missing.is_empty())
    }

    /// # Errors
    /// When the browser does not start.
    pub async fn start(instance: &Arc<Instance>) -> anyhow::Result<Browser> {
        let dir = instance.dir().join("browser");
        std::fs::create_dir_all(&dir)?;
        let [chromium, chromedriver] = PROGRAMS;
        let mut command = Command::new(chromedriver);
        command
            .arg(format!("--port={PORT}"))
            .arg(format!("--log-path={}", dir.join("log").display()))
            .current_dir(&dir)
            .env("HOME", &dir);
        let on = Arc::clone(instance);
        tokio::spawn(async move { on.run(command).await });

        let mut flags: Vec<String> = FLAGS.map(str::to_owned).to_vec();
        flags.push(format!("--user-data-dir={}", dir.join("profile").display()));
        let wanted = json!({ "capabilities": { "alwaysMatch": {
            "browserName": "chrome",
            "goog:chromeOptions": { "binary": chromium, "args": flags },
            "goog:loggingPrefs": { "browser": "ALL", "performance": "ALL" },
        } } });
        let mut browser = Browser {
            netns: Path::new("/run/netns").join(instance.netns()),
            session: String::new(),
        };
        let began = Instant::now();
        let session = loop {
            match browser.call("POST", "/session", &wanted).await {
                Ok(session) => break session,
                Err(error) if began.elapsed() > PATIENCE => return Err(error),
                Err(_) => tokio::time::sleep(Duration::from_millis(200)).await,
            }
        };
        let id = session["sessionId"].as_str().context("a session")?;
        browser.session = format!("/session/{id}");
        Ok(browser)
    }

    /// Opens a page.
    ///
    /// # Errors
    /// When the browser fails.
    pub async fn open(&self, url: &str) -> anyhow::Result<()> {
        self.order("/url", &json!({ "url": url })).await.map(drop)
    }

    /// Evaluates the body of a function in the page, and returns the result.
    ///
    /// # Errors
    /// When the function throws.
    pub async fn run(&self, script: &str) -> anyhow::Result<Value> {
        let order = json!({ "script": script, "args": [] });
        self.order("/execute/sync", &order).await.with_context(|| script.to_owned())
    }

    /// Checks the page with axe-core; returns the violations, each with its rule and elements. `None` if this machine
    /// has no axe-core, which it prints.
    ///
    /// # Errors
    /// When the browser or axe-core fails.
    pub async fn axe(&self) -> anyhow::Result<Option<Value>> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(AXE);
        let Ok(axe) = std::fs::read_to_string(file) else {
            writeln!(std::io::stderr(), "skipped: there is no axe-core (scripts/setup.sh test)")?;
            return Ok(None);
        };
        self.run(&axe).await?;
        self.run(
            "window.violations = null;
             const short = (one) => [one.id, one.impact, one.nodes.slice(0, 3).map((node) => node.html)];
             axe.run(document).then((found) => { window.violations = found.violations.map(short); })
                 .catch((error) => { window.violations = [String(error)]; })",
        )
        .await?;
        let began = Instant::now();
        loop {
            let violations = self.run("return window.violations").await?;
            if !violations.is_null() {
                return Ok(Some(violations));
            }
            ensure!(began.elapsed() < PATIENCE, "axe-core does not end");
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }

    /// A command of the DevTools protocol, such as `Emulation.setEmulatedMedia`.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn devtools(&self, command: &str, parameters: Value) -> anyhow::Result<Value> {
        let order = json!({ "cmd": command, "params": parameters });
        self.order("/goog/cdp/execute", &order).await
    }

    /// Sets the window's size in pixels; a telephone has twice as many dots.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn resize(&self, width: u32, height: u32) -> anyhow::Result<()> {
        let is_phone = width < 500;
        let dots = if is_phone { 2 } else { 1 };
        let size = json!({
            "width": width, "height": height, "deviceScaleFactor": dots, "mobile": is_phone,
        });
        self.devtools("Emulation.setDeviceMetricsOverride", size).await.map(drop)
    }

    /// Sets the colour scheme: `light` or `dark`.
    ///
    /// # Errors
    /// When the browser refuses.
    pub async fn prefer(&self, scheme: &str) -> anyhow::Result<()> {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        self.devtools("Emulation.setEmulatedMedia", json!({ "features": features })).await.map(drop)
    }

    /// Writes a PNG of the window.
    ///
    /// # Errors
    /// When the picture cannot be taken or written.
    pub async fn screenshot(&self, file: &Path) -> anyhow::Result<()> {
        let picture =
            self.call("GET", &format!("{}/screenshot", self.session), &Value::Null).await?;
        let picture = picture.as_str().context("a picture")?;
        let picture = base64::engine::general_purpose::STANDARD.decode(picture)?;
        std::fs::write(file, picture).with_context(|| format!("cannot write {}", file.display()))
    }

    /// The console's entries since the last call: `level`, `message`.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn console(&self) -> anyhow::Result<Vec<Value>> {
        self.log("browser").await
    }

    /// The addresses of all requests since the last call.
    ///
    /// # Errors
    /// When the browser does not answer.
    pub async fn requests(&self) -> anyhow::Result<Vec<String>> {
        let mut urls = Vec::new();
        for entry in self.log("performance").await? {
            let entry: Value = serde_json::from_str(entry["message"].as_str().unwrap_or("{}"))?;
            if entry["message"]["method"] == "Network.requestWillBeSent" {
                let url = entry["message"]["params"]["request"]["url"].as_str();
                urls.extend(url.map(str::to_owned));
            }
        }
        Ok(urls)
    }

    async fn log(&self, kind: &str) -> anyhow::Result<Vec<Value>> {
        let log = self.order("/se/log", &json!({ "type": kind })).await?;
        log.as_array().cloned().context("a log")
    }

    async fn order(&self, path: &str, body: &Value) -> anyhow::Result<Value> {
        self.call("POST", &format!("{}{path}", self.session), body).await
    }

    async fn call(&self, method: &'static str, path: &str, body: &Value) -> anyhow::Result<Value> {
        let netns = File::open(&self.netns)?;
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let request = format!(
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{PORT}\r\nContent-Type: application/json\r\n\
             Content-Length: {}\r\n\r\n{body}",
            body.len()
        );
        // In its own thread: it enters the instance's network namespace for good.
        let (tell, answer) = tokio::sync::oneshot::channel();
        std::thread::spawn(move || tell.send(exchange(netns, &request)));
        let answer = answer.await??;
        let value = serde_json::from_slice::<Value>(&answer)?["value"].take();
        ensure!(value["error"].is_null(), "{method} {path}: {value:#}");
        Ok(value)
    }
}

/// Sends a request and returns the body of the answer.
fn exchange(netns: File, request: &str) -> anyhow::Result<Vec<u8>> {
    setns(netns, CloneFlags::CLONE_NEWNET)?;
    let mut stream = TcpStream::connect(("127.0.0.1", PORT))?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.write_all(request.as_bytes())?;
    // chromedriver keeps the connection open, regardless of the request: the length marks the end of the answer.
    let mut answer = BufReader::new(stream);
    let (mut line, mut length) = (String::new(), 0);
    while answer.read_line(&mut line)? > 2 {
        if let Some((name, value)) = line.split_once(':')
            && name.eq_ignore_ascii_case("content-length")
        {
            length = value.trim().parse()?;
        }
        line.clear();
    }
    let mut body = vec![0; length];
    answer.read_exact(&mut body)?;
    Ok(body)
}
