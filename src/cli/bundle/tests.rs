//! Tests of the whole command, and that no secret in any part reaches the archive.

use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;

use clap::Parser as _;
use flate2::read::GzDecoder;
use proptest::prelude::*;
use time::macros::datetime;

use super::*;
use crate::cli::Cli;

/// Returns the files of an archive: path, mode, content.
fn unpack(path: &Path) -> Vec<(String, u32, String)> {
    let mut archive = tar::Archive::new(GzDecoder::new(std::fs::File::open(path).unwrap()));
    let entries = archive.entries().unwrap().map(|entry| {
        let mut entry = entry.unwrap();
        let path = entry.path().unwrap().display().to_string();
        let (mode, mut content) = (entry.header().mode().unwrap(), String::new());
        entry.read_to_string(&mut content).unwrap();
        (path, mode, content)
    });
    entries.collect()
}

fn parts(text: &str) -> Vec<Part> {
    let json = json!({ "node": { "doing": text, text: [text] } });
    vec![
        Part { name: "status.json", content: Ok(Content::Json(json.clone())) },
        Part { name: "events.jsonl", content: Ok(Content::Lines(vec![json.clone(), json])) },
        Part { name: "log.txt", content: Ok(Content::Text(format!("a\n{text}\nb"))) },
        Part { name: "docker.json", content: Err(text.to_owned()) },
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn no_secret_in_any_part_is_in_the_archive(
        (text, secret) in crate::common::redact::tests::secrets(),
        known in "[!-~]{8,30}",
    ) {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("b.tar.gz");
        let redactor = Redactor::new([known.clone()]).unwrap();
        let parts = parts(&format!("failed: {text} and <{known}>"));
        let files = seal(json!({ "format": FORMAT }), &parts, &redactor).unwrap();
        archive::write(&path, &files, datetime!(2026-11-02 12:00 UTC)).unwrap();
        let found = unpack(&path);
        prop_assert_eq!(found.len(), 4, "the manifest, and the parts without an error");
        for (name, _, content) in &found {
            prop_assert!(!content.contains(&secret), "{name}: {secret:?} in {content}");
            prop_assert!(!content.contains(&known), "{name}: {known:?} in {content}");
        }
    }
}

#[test]
fn an_archive_is_for_its_owner_alone_and_overwrites_nothing() {
    let dir = tempfile::tempdir().unwrap();
    let path = dir.path().join("skep-bundle-i-0abc.tar.gz");
    let files = [("manifest.json".to_owned(), b"{}".to_vec())];
    let at = datetime!(2026-11-02 12:00 UTC);
    let size = archive::write(&path, &files, at).unwrap();
    let metadata = std::fs::metadata(&path).unwrap();
    assert_eq!((metadata.permissions().mode() & 0o777, metadata.len()), (0o600, size));
    let expected = ("skep-bundle-i-0abc/manifest.json".to_owned(), 0o600, "{}".to_owned());
    assert_eq!(unpack(&path), [expected]);
    let again = archive::write(&path, &[], at).unwrap_err();
    assert_eq!(again.kind(), std::io::ErrorKind::AlreadyExists);
    assert_eq!(unpack(&path).len(), 1, "the first one is as it was");
    assert!(refuse_existing(&path).is_err());
    let link = dir.path().join("link");
    std::os::unix::fs::symlink("/nowhere", &link).unwrap();
    assert!(refuse_existing(&link).is_err() && refuse_existing(&dir.path().join("new")).is_ok());
}

#[test]
fn the_default_name_is_a_plain_file_name() {
    let at = datetime!(2026-11-02 12:03:04 UTC);
    assert_eq!(default_name(Some("i-0abc"), at), "skep-bundle-i-0abc-20261102T120304Z.tar.gz");
    assert_eq!(default_name(None, at), "skep-bundle-unknown-20261102T120304Z.tar.gz");
    assert_eq!(default_name(Some("../x y"), at), "skep-bundle-xy-20261102T120304Z.tar.gz");
}

/// Runs `skep bundle` on a host without skep, Docker and metadata. Returns the folder and the archive in it.
fn bundle(toml: &str) -> (tempfile::TempDir, PathBuf) {
    let dir = tempfile::tempdir().unwrap();
    let at = dir.path().display();
    let own = format!(
        "state_dir = '{at}'\nruntime_dir = '{at}'\n[docker]\nhost = 'unix://{at}/docker.sock'\n\
         [health]\nlisten = '127.0.0.1:1'\n"
    );
    std::fs::write(dir.path().join("skep.toml"), format!("{own}{toml}")).unwrap();
    let output = dir.path().join("b.tar.gz");
    let words = ["skep", "bundle", "--config-dir", &at.to_string(), "--output"];
    let cli = Cli::try_parse_from(words.into_iter().chain([output.to_str().unwrap()])).unwrap();
    // A thread of a test has 2 MiB of stack, and the main thread 8 MiB.
    let run = std::thread::Builder::new().stack_size(8 << 20).spawn(|| cli.dispatch().unwrap());
    let code = run.unwrap().join().unwrap();
    assert_eq!(format!("{code:?}"), format!("{:?}", ExitCode::SUCCESS));
    (dir, output)
}

#[test]
fn without_a_running_skep_the_archive_has_the_rest_and_names_what_is_missing() {
    let (_dir, path) = bundle("");
    let found = unpack(&path);
    let manifest: Value = serde_json::from_str(&found[0].2).unwrap();
    assert_eq!(found[0].0, "b/manifest.json");
    assert_eq!(manifest["format"], FORMAT);
    let error = |part: &str| manifest["parts"][part]["error"].as_str().unwrap_or_default();
    assert!(error("status.json").contains("skep is not running"), "{manifest:#}");
    assert!(!error("docker.json").is_empty() && !error("metrics.txt").is_empty(), "{manifest:#}");
    for part in ["doctor.json", "config.json", "system.json", "events.jsonl"] {
        let bytes = manifest["parts"][part]["bytes"].as_u64();
        let content = found.iter().find(|it| it.0 == format!("b/{part}")).map(|it| it.2.len());
        assert_eq!(bytes.map(|bytes| bytes as usize), content, "{part}: {manifest:#}");
        assert!(content.is_some(), "{part}: {manifest:#}");
    }
}

#[test]
fn a_mistake_in_the_configuration_is_in_the_manifest() {
    let (_dir, path) = bundle("[boot]\ndeadlin = '5m'\n");
    let manifest: Value = serde_json::from_str(&unpack(&path)[0].2).unwrap();
    let error = manifest["parts"]["config.json"]["error"].as_str().unwrap();
    assert!(error.contains("boot.deadlin: unknown key"), "{manifest:#}");
    assert!(manifest["parts"]["doctor.json"]["error"].is_string(), "{manifest:#}");
    assert!(manifest["parts"]["system.json"]["bytes"].is_u64(), "{manifest:#}");
}
