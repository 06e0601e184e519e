//! The page in a real browser: the fleet while a worker leaves, in light and dark, on a telephone, with many nodes, and
//! when the manager does not answer.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::ensure;
use harness::PATIENCE;
use harness::browser::Browser;
use harness::departures::{Leaver, options_with, running, shell, signal, standing};
use harness::secs;
use serde_json::{Value, json};
use skep_sim::cloud::Market;
use skep_sim::fleet::{ClusterSpec, Fleet, Instance, workload};

/// A node's label can contain anything; the page must not render it as markup.
const MARKUP: &str = "<img src=x onerror=document.title='owned'>";
/// An address that is in no private network (RFC 5737).
const PUBLIC: &str = "203.0.113.9";
/// Minimum duration of a departure here, during which the test reads the page.
const GRACE: f32 = 35.0;
/// Milliseconds from the last answer until the page says that there is none: 5 s, and time for a busy machine.
const NOTICED_WITHIN: u64 = 20_000;
/// As long as EC2's notice.
const NOTICE: Duration = secs(120);

#[tokio::test]
async fn a_browser_sees_the_fleet_live() -> anyhow::Result<()> {
    if !Browser::possible()? {
        return Ok(());
    }
    let spec = ClusterSpec { workers_market: Market::Spot, ..ClusterSpec::new("demo", 3, 3) };
    let config = format!("[health]\nui = true\n[labels]\nnote = \"{MARKUP}\"\n");
    let fleet = standing(options_with(&config), &spec).await?;
    fleet.create_service("web", 9, workload::slow_to_stop(GRACE), secs(60)).await?;
    fleet.create_service("queue", 4, workload::graceful(), secs(10)).await?;
    running(&fleet, "web", 9).await?;
    running(&fleet, "queue", 4).await?;
    let manager = fleet.leader().await?;
    let workers = fleet.group(&spec.workers_group());
    let [viewer, scaled_in, taken] = &workers[..] else { anyhow::bail!("three workers") };
    only_who_may_look_is_answered(&manager, viewer).await?;

    let page = Page::open(&fleet, viewer, &manager).await?;
    page.shows_the_fleet_as_it_is(&spec).await?;
    page.holds_markup_for_text().await?;
    page.finds_what_is_searched().await?;
    page.shows_the_services().await?;
    page.is_accessible("nodes and services").await?;
    let (scaled_in, taken) = (Leaver::of(scaled_in).await?, Leaver::of(taken).await?);
    fleet.cloud().spot_notice(taken.id(), "terminate", NOTICE)?;
    fleet.cloud().terminate(scaled_in.id(), true)?;
    page.until("both departures", "return all('.departure').length === 2").await?;
    page.shows_the_nearer_departure(&taken).await?;
    page.looks_good("light", 1280, 660).await?;
    page.looks_good("dark", 1280, 660).await?;
    page.looks_good("small", 360, 780).await?;
    taken.has_left(&fleet).await?;
    scaled_in.has_left_by_its_hook(&fleet).await?;
    page.lists_who_has_left(&[scaled_in.id(), taken.id()]).await?;
    page.until("both are gone", "return all('.node').length === 4 && !all('.departure').length")
        .await?;
    page.has_asked_nobody_else(&manager).await?;
    page.says_when_nobody_answers(&manager).await?;
    page.draws_any_size().await?;
    fleet.stop().await
}

/// Others get a sentence and no data of the fleet.
async fn only_who_may_look_is_answered(
    manager: &Instance,
    worker: &Instance,
) -> anyhow::Result<()> {
    let address = manager.address();
    let answer = |on: &'static str, host: String| async move {
        let script = format!(
            "import socket\n\
             s = socket.create_connection(('{address}', 44554), 10, ('{on}', 0))\n\
             s.sendall(b'GET /ui/fleet.json HTTP/1.0\\r\\nHost: {host}\\r\\n\\r\\n')\n\
             while (part := s.recv(65536)): print(part.decode(), end='')\n"
        );
        shell(manager, &format!("ip address replace {PUBLIC}/32 dev lo && python3 -c \"{script}\""))
            .await
    };
    let seen = answer("0.0.0.0", address.to_string()).await?;
    ensure!(seen.contains(" 200 ") && seen.contains("default-src 'none'"), "{seen}");
    ensure!(!seen.contains("SWMTKN"), "a join token: {seen}");
    let seen = answer(PUBLIC, address.to_string()).await?;
    ensure!(seen.contains(" 403 ") && seen.contains("private addresses only"), "{seen}");
    let seen = answer("0.0.0.0", "evil.example".to_owned()).await?;
    ensure!(seen.contains(" 403 ") && !seen.contains("members"), "{seen}");
    let ask = "exec 3<>/dev/tcp/127.0.0.1/44554; printf 'GET /ui HTTP/1.0\\r\\nHost: localhost\\r\\n\\r\\n' >&3; cat <&3";
    let seen = shell(worker, ask).await?;
    ensure!(seen.contains(" 404 ") && seen.contains("This page is on managers"), "{seen}");
    Ok(())
}

struct Page<'a> {
    fleet: &'a Fleet,
    browser: Browser,
}

impl<'a> Page<'a> {
    async fn open(
        fleet: &'a Fleet,
        viewer: &Arc<Instance>,
        manager: &Instance,
    ) -> anyhow::Result<Page<'a>> {
        let browser = Browser::start(viewer).await?;
        browser.resize(1280, 900).await?;
        browser.open(&format!("http://{}:44554/ui", manager.address())).await?;
        let page = Page { fleet, browser };
        page.until("the page is live", "return text('#connection') === 'live'").await?;
        Ok(page)
    }

    /// Runs a script that can use `all(selector)`, `text(selector)` and `texts(selector)`.
    async fn run(&self, script: &str) -> anyhow::Result<Value> {
        const HELPERS: &str = "const all = (s) => [...document.querySelectorAll(s)];\
            const text = (s) => document.querySelector(s)?.textContent ?? '';\
            const texts = (s) => all(s).map((e) => e.textContent);";
        self.browser.run(&format!("{HELPERS}{script}")).await
    }

    async fn until(&self, what: &str, condition: &str) -> anyhow::Result<()> {
        let look = async || Ok(self.run(condition).await? == true);
        self.fleet.wait_until(what, PATIENCE, look).await
    }

    async fn shows_the_fleet_as_it_is(&self, spec: &ClusterSpec) -> anyhow::Result<()> {
        self.until("all tasks", "return all('.node .pip.running').length === 13").await?;
        let seen = self
            .run(
                "return { zones: texts('.zone h2 span'), nodes: all('.node.ready').length,
                    leaders: all('.node .glyph.leader').length,
                    managers: all('.node .glyph.manager').length,
                    figures: texts('#figures dd'), cluster: text('h1'),
                    ids: texts('.node .id').sort(), services: [...new Set(texts('.tasks .name'))].sort(),
                    ages: texts('.node time') }",
            )
            .await?;
        let zones = json!(["eu-central-1a", "eu-central-1b", "eu-central-1c"]);
        ensure!(seen["zones"] == zones, "{seen:#}");
        ensure!(seen["nodes"] == 6 && seen["leaders"] == 1 && seen["managers"] == 2, "{seen:#}");
        ensure!(seen["cluster"] == spec.name.as_str(), "{seen:#}");
        let figures =
            json!(["3 of 3 managers reachable, 1 may be lost", "3 managers, 3 workers", "13"]);
        ensure!(seen["figures"] == figures, "{seen:#}");
        let mut ids: Vec<String> =
            self.fleet.instances().iter().map(|one| one.id().to_owned()).collect();
        ids.sort();
        ensure!(seen["ids"] == json!(ids), "{seen:#}");
        ensure!(seen["services"] == json!(["queue", "web"]), "{seen:#}");
        let is_age = |age: &Value| {
            age.as_str().is_some_and(|age| age.starts_with(|c: char| c.is_ascii_digit()))
        };
        ensure!(seen["ages"].as_array().is_some_and(|ages| ages.iter().all(is_age)), "{seen:#}");
        // A node's state can be read without colours and without a mouse.
        let button = self.run("return all('.node button')[0].getAttribute('aria-label')").await?;
        ensure!(button.as_str().is_some_and(|it| it.contains("ready, ")), "{button}");
        Ok(())
    }

    async fn holds_markup_for_text(&self) -> anyhow::Result<()> {
        self.run("all('.node button')[0].click()").await?;
        self.until("the facts", "return all('.node.open .facts dd').length > 5").await?;
        let seen = self
            .run("return [text('.open .facts'), all('.facts img').length, document.title]")
            .await?;
        ensure!(seen[0].as_str().is_some_and(|facts| facts.contains(MARKUP)), "{seen:#}");
        ensure!(seen[1] == 0 && seen[2] == "demo · skep", "{seen:#}");
        self.run("all('.node button')[0].click()").await?;
        let is_closed = self.run("return !all('.node.open').length").await?;
        ensure!(is_closed == true, "a second click closes it");
        Ok(())
    }

    /// Search and filter are in the address: a reload and a link show the same.
    async fn finds_what_is_searched(&self) -> anyhow::Result<()> {
        const SHOWN: &str = "all('.node').filter((e) => e.checkVisibility()).length";
        self.run("document.activeElement.blur()").await?;
        self.run("dispatchEvent(new KeyboardEvent('keydown', { key: '/', cancelable: true }))")
            .await?;
        let focused = self.run("return document.activeElement.name").await?;
        ensure!(focused == "q", "the key / leads to the search: {focused}");
        self.run(
            "const form = document.querySelector('#find');
             form.elements.q.value = 'web'; form.elements.role.value = 'worker';
             form.elements.q.dispatchEvent(new Event('input', { bubbles: true }))",
        )
        .await?;
        let workers = format!("return {SHOWN} === 3 && text('#matches') === '3 of 6 nodes shown'");
        self.until("the workers with web", &workers).await?;
        let hash = self.run("return location.hash").await?;
        ensure!(hash == "#q=web&role=worker", "{hash}");
        self.run("location.reload()").await?;
        self.until("the same after a reload", &workers).await?;
        self.run("location.hash = '#q=nothing-like-it'").await?;
        self.until("no node", &format!("return {SHOWN} === 0")).await?;
        self.run("document.querySelector('#clear').click()").await?;
        self.until("all nodes", &format!("return {SHOWN} === 6 && location.hash === ''")).await?;
        self.run(
            "const theme = document.querySelector('#theme'); theme.value = 'dark';
            theme.dispatchEvent(new Event('change')); location.reload()",
        )
        .await?;
        self.until("the chosen colours after a reload", "return text('#connection') === 'live'
            && document.querySelector('#theme').value === 'dark' && document.documentElement.dataset.theme === 'dark'").await?;
        self.run(
            "const theme = document.querySelector('#theme'); theme.value = '';
            theme.dispatchEvent(new Event('change'))",
        )
        .await?;
        Ok(())
    }

    async fn shows_the_services(&self) -> anyhow::Result<()> {
        self.run("document.querySelector('#views a[data-view=services]').click()").await?;
        self.until("both services", "return all('#service-rows tr').length === 2").await?;
        let seen = self
            .run("return all('#service-rows tr').map((row) => [...row.children].map((e) => e.textContent))")
            .await?;
        ensure!(seen[0][0] == "queuereplicated" && seen[1][0] == "webreplicated", "{seen:#}");
        ensure!(seen[0][1] == "4 of 4whole" && seen[1][1] == "9 of 9whole", "{seen:#}");
        ensure!(seen[1][2] == "", "nothing waits: {seen:#}");
        ensure!(seen[1][5].as_str().is_some_and(|nodes| nodes.contains("i-")), "{seen:#}");
        self.is_accessible("services").await?;
        self.run("document.querySelector('#views a[data-view=nodes]').click()").await?;
        self.until("the nodes again", "return all('.node')[0]?.checkVisibility() === true").await
    }

    /// By the rules of axe-core for WCAG and good practice; skipped if it is not installed.
    async fn is_accessible(&self, what: &str) -> anyhow::Result<()> {
        let violations = self.browser.axe().await?;
        ensure!(violations.as_ref().is_none_or(|it| *it == json!([])), "{what}: {violations:#?}");
        Ok(())
    }

    async fn lists_who_has_left(&self, instances: &[&str]) -> anyhow::Result<()> {
        for instance in instances {
            let row = format!(
                "return texts('#departed-rows tr').some((e) => e.startsWith('{instance}'))"
            );
            self.until("the departure of the last day", &row).await?;
        }
        Ok(())
    }

    /// The first departure: with a countdown, and the reason for waiting.
    async fn shows_the_nearer_departure(&self, leaver: &Leaver) -> anyhow::Result<()> {
        self.until("the departure", "return text('.departure .steps .now') === 'draining'").await?;
        self.until("what it waits for", "return text('.waits') === 'Waits for the tasks to stop.'")
            .await?;
        self.until("tasks that stop", "return all('.node.leaving .pip.stopping').length > 0")
            .await?;
        const LOOK: &str = "const id = text('.departure .id');
            const node = all('.node').find((e) => e.querySelector('.id').textContent === id);
            return { id, why: text('.departure .why'), left: text('.departure .left'),
                state: node.querySelector('.state').textContent,
                share: Number(/[\\d.]+/.exec(document.querySelector('.bar i').style.transform)) }";
        let first = self.run(LOOK).await?;
        ensure!(first["id"] == leaver.id(), "{first:#}");
        let why = first["why"].as_str().unwrap_or_default();
        ensure!(why.starts_with("spot, eu-central-1"), "{first:#}");
        ensure!(
            first["state"].as_str().is_some_and(|it| it.starts_with("draining, ")),
            "{first:#}"
        );
        // A browser that has much to do draws late, and the bar later than the text.
        let is_later = format!(
            "const now = (() => {{ {LOOK} }})(); return now.left !== {} && now.share < {}",
            first["left"], first["share"]
        );
        self.until("a later countdown", &is_later).await?;
        let later = self.run(LOOK).await?;
        let share = |seen: &Value| seen["share"].as_f64().unwrap_or_default();
        ensure!(0.0 < share(&later) && share(&later) < share(&first), "{first:#} {later:#}");
        Ok(())
    }

    /// Checks that nothing extends beyond the window and all text is legible against its background; saves a picture.
    async fn looks_good(&self, name: &str, width: u32, height: u32) -> anyhow::Result<()> {
        let scheme = if name == "dark" { "dark" } else { "light" };
        self.browser.prefer(scheme).await?;
        self.browser.resize(width, height).await?;
        let seen = self.run(LOOKS).await?;
        self.browser.screenshot(&pictures()?.join(format!("ui-{name}.png"))).await?;
        ensure!(seen["width"].as_u64() <= Some(width.into()), "{name} is too wide: {seen:#}");
        ensure!(seen["is_dark"] == (scheme == "dark"), "{name}: {seen:#}");
        ensure!(seen["faint"] == json!([]), "{name} is hard to read: {seen:#}");
        let columns = if width < 500 { 1 } else { 3 };
        ensure!(seen["columns"] == columns, "{name}: {seen:#}");
        Ok(())
    }

    async fn has_asked_nobody_else(&self, manager: &Instance) -> anyhow::Result<()> {
        let own = format!("http://{}:44554/ui", manager.address());
        let requests = self.browser.requests().await?;
        let is_own = |url: &&String| url.starts_with(&own) || url.starts_with("data:");
        // A new window shows the browser's own page.
        let requests = requests.into_iter().filter(|url| !url.starts_with("chrome"));
        let requests: Vec<String> = requests.collect();
        let strange: Vec<_> = requests.iter().filter(|url| !is_own(url)).collect();
        ensure!(strange.is_empty() && requests.len() > 5, "{strange:?} of {requests:?}");
        let console = self.browser.console().await?;
        ensure!(console.is_empty(), "{console:#?}");
        Ok(())
    }

    async fn says_when_nobody_answers(&self, manager: &Instance) -> anyhow::Result<()> {
        signal(manager, "SIGSTOP")?;
        // The page itself measures when it has noticed: a test that polls would be late on a busy machine.
        self.run(
            "window.silence = null;
             new MutationObserver((_, observer) => {
                 if (!document.body.classList.contains('lost')) return;
                 window.silence = Date.now() - answeredAt;
                 observer.disconnect();
             }).observe(document.body, { attributeFilter: ['class'] })",
        )
        .await?;
        self.until("silence", "return text('#connection').startsWith('last answer ')").await?;
        let silence = self.run("return window.silence").await?;
        ensure!(silence.as_u64().is_some_and(|it| it <= NOTICED_WITHIN), "{silence} ms");
        self.is_accessible("an old page").await?;
        let lost =
            self.run("return [text('#lost'), all('#lost a').length, all('.node').length]").await?;
        signal(manager, "SIGCONT")?;
        ensure!(
            lost[0].as_str().is_some_and(|it| it.contains("What is shown is from")),
            "{lost:#}"
        );
        ensure!(lost[1] == 2 && lost[2] == 4, "the other managers, and what was there: {lost:#}");
        self.until(
            "it is live again",
            "return text('#connection') === 'live' && !all('.lost').length",
        )
        .await
    }

    /// No node, one node, and two hundred and a thousand nodes with ten tasks each.
    async fn draws_any_size(&self) -> anyhow::Result<()> {
        self.browser.resize(1280, 900).await?;
        for size in [0, 1, 200, 1000] {
            self.run(&format!("{INSTEAD}; instead({size})")).await?;
            self.until("so many nodes", &format!("return all('.node').length === {size}")).await?;
            let seen = self.run(LOOKS).await?;
            ensure!(seen["width"] == 1280 && seen["faint"] == json!([]), "{size}: {seen:#}");
            self.browser.screenshot(&pictures()?.join(format!("ui-{size}.png"))).await?;
        }
        self.browser.resize(360, 780).await?;
        let seen = self.run(LOOKS).await?;
        ensure!(seen["width"] == 360, "{seen:#}");
        // With a thousand nodes an answer changes only what it has news of.
        let changes = self
            .run(
                "const observer = new MutationObserver(() => {});
                 observer.observe(document.body, { subtree: true, childList: true, attributes: true, characterData: true });
                 picture = structuredClone(picture); draw();
                 const same = observer.takeRecords().length;
                 picture.fleet.members[700].docker_state = 'down'; draw();
                 const nodes = new Set(observer.takeRecords().map((it) => it.target.closest?.('.node')?.dataset.key));
                 const states = texts('.node.dead .state');
                 picture.fleet.members[701].docker_state = 'unknown'; draw();
                 return { same, nodes: [...nodes], states, unknown: texts('.node.unknown .state') }",
            )
            .await?;
        let expected = json!({ "same": 0, "nodes": ["n700"], "states": ["down"],
            "unknown": ["unknown; the ledger has ready"] });
        ensure!(changes == expected, "{changes:#}");
        Ok(())
    }
}

/// Returns the total width, the number of zones side by side, and the texts with too little contrast against their
/// background (WCAG 2.2, 1.4.3: 4.5 to 1).
const LOOKS: &str = "
    const canvas = document.createElement('canvas').getContext('2d', { willReadFrequently: true });
    const rgb = (colour) => {
        canvas.clearRect(0, 0, 1, 1); canvas.fillStyle = colour; canvas.fillRect(0, 0, 1, 1);
        return [...canvas.getImageData(0, 0, 1, 1).data];
    };
    const light = (colour) => {
        const [r, g, b] = rgb(colour).map((c) => c / 255).map((c) => c <= .04045 ? c / 12.92 : ((c + .055) / 1.055) ** 2.4);
        return .2126 * r + .7152 * g + .0722 * b;
    };
    const behind = (e) => {
        const colour = getComputedStyle(e).backgroundColor;
        return rgb(colour)[3] ? colour : e.parentElement ? behind(e.parentElement) : 'white';
    };
    const contrast = (e) => {
        const [a, b] = [light(getComputedStyle(e).color), light(behind(e))].sort((a, b) => b - a);
        return (a + .05) / (b + .05);
    };
    const own = (e) => [...e.childNodes].some((n) => n.nodeType === 3 && n.textContent.trim());
    const faint = all('body *').filter((e) => own(e) && e.checkVisibility() && contrast(e) < 4.5);
    return {
        width: document.documentElement.scrollWidth,
        is_dark: light(getComputedStyle(document.body).backgroundColor) < .1,
        columns: new Set(all('.zone').map((e) => e.offsetLeft)).size,
        faint: faint.map((e) => [e.className, e.textContent, contrast(e)]),
    };";

/// From here on the page receives invented fleets.
const INSTEAD: &str = "
    const instead = (size) => {
        window.model ??= picture.fleet.members[0];
        const member = (n) => ({ ...window.model, node_id: `n${n}`, leader: n === 0,
            instance_id: `i-${String(n).padStart(17, '0')}`, zone: `eu-central-1${'abc'[n % 3]}`,
            role: n < 5 ? 'manager' : 'worker', leaving: null, verdict: null, docker_state: 'ready' });
        const made = structuredClone(picture);
        made.fleet.members = Array.from({ length: size }, (_, n) => member(n));
        made.tasks = Array.from({ length: size * 10 }, (_, n) => ({ service: `service-${n % 17}`,
            slot: n, node_id: `n${n % size}`, state: 'running', stopping: false }));
        picture = made;
        window.fetch = async () => new Response(JSON.stringify(made));
        draw();
        tick();
    }";

/// The folder for the pictures; those in `docs/` come from here.
fn pictures() -> anyhow::Result<PathBuf> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/test/page");
    std::fs::create_dir_all(&dir)?;
    Ok(dir)
}
