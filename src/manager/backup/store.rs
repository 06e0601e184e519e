//! Where backups are stored: one object in S3 for each, whose key tells its time, its swarm and its content's digest.

use time::OffsetDateTime;
use time::PrimitiveDateTime;
use time::format_description::BorrowedFormatItem;
use time::macros::format_description;

use super::error::BackupError;
use super::snapshot::Snapshot;
use crate::clients::aws::LARGEST_ANSWER;
use crate::clients::aws::s3::Bucket;
use crate::node::Node;

/// RFC 3339's basic format, which sorts by time.
const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year][month][day]T[hour][minute][second]Z");
const EXTENSION: &str = ".json";

/// The backups of one cluster.
#[derive(Clone, Debug)]
pub struct Store {
    bucket: Bucket,
    cluster: String,
    /// Name of the bucket and beginning of all keys, for messages.
    place: String,
    /// Beginning of all keys.
    prefix: String,
    kms_key: String,
}

/// The key of a backup, such as `skep/prod/20261201T024800Z-3-4zr5xzv1gnrmhqkxoejgvjxnn-0123456789ab.json`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Key {
    /// Time when the backup was taken, to the second.
    pub at: OffsetDateTime,
    /// Generation of its swarm. A new ledger counts from 1 again, so it does not tell swarms apart.
    pub generation: u64,
    /// Docker's id of its swarm.
    pub swarm_id: String,
    /// Digest of its content.
    pub digest: String,
    /// The whole key.
    pub text: String,
}

impl Key {
    fn new(
        prefix: &str,
        at: OffsetDateTime,
        generation: u64,
        swarm_id: &str,
        digest: &str,
    ) -> Option<Self> {
        let time = at.to_offset(time::UtcOffset::UTC).format(TIME).ok()?;
        let name = format!("{time}-{generation}-{swarm_id}-{digest}");
        Self::parse(prefix, &format!("{prefix}{name}{EXTENSION}"))
    }

    /// Makes a key of the cluster `prod`, whose swarms are `s1`, `s2` and so on.
    #[cfg(test)]
    pub(in crate::manager) fn example(at: OffsetDateTime, generation: u64) -> Self {
        Self::new("skep/prod/", at, generation, &format!("s{generation}"), "aa").unwrap()
    }

    /// Returns `None` for a key that skep has not made.
    fn parse(prefix: &str, text: &str) -> Option<Self> {
        let name = text.strip_prefix(prefix)?.strip_suffix(EXTENSION)?;
        let (time, rest) = name.split_once('-')?;
        let (generation, rest) = rest.split_once('-')?;
        let (swarm_id, digest) = rest.split_once('-')?;
        let is_swarm =
            !swarm_id.is_empty() && swarm_id.bytes().all(|it| it.is_ascii_alphanumeric());
        let is_digest = !digest.is_empty() && digest.bytes().all(|it| it.is_ascii_hexdigit());
        Some(Self {
            at: PrimitiveDateTime::parse(time, TIME).ok()?.assume_utc(),
            generation: generation.parse().ok()?,
            swarm_id: is_swarm.then(|| swarm_id.to_owned())?,
            digest: is_digest.then(|| digest.to_owned())?,
            text: text.to_owned(),
        })
    }
}

impl Store {
    /// Returns the store of this node's cluster; `None` where the settings name none. Makes no request.
    #[must_use]
    pub fn of(node: &Node) -> Option<Self> {
        let settings = &node.settings.backup;
        let (to, kms_key) = (settings.to.as_ref()?, settings.kms_key.clone()?);
        let slash = if to.prefix.is_empty() { "" } else { "/" };
        let prefix = format!("{}{slash}{}/", to.prefix, node.cluster);
        let bucket =
            node.s3.bucket(&to.bucket, settings.region.as_deref(), settings.endpoint.as_ref());
        let place = format!("s3://{}/{prefix}", to.bucket);
        let cluster = node.cluster.clone();
        Some(Self { bucket, cluster, place, prefix, kms_key })
    }

    /// Returns the bucket and the beginning of the keys, such as `s3://backups/skep/prod/`.
    #[must_use]
    pub fn place(&self) -> &str {
        &self.place
    }

    /// Lists the backups, oldest first. Objects with other keys are left out.
    ///
    /// # Errors
    /// When S3 did not answer, or refused.
    pub async fn list(&self) -> Result<Vec<Key>, BackupError> {
        let keys = self.bucket.list(&self.prefix).await?;
        let mut keys: Vec<Key> =
            keys.iter().filter_map(|key| Key::parse(&self.prefix, key)).collect();
        keys.sort();
        Ok(keys)
    }

    /// Stores a backup.
    ///
    /// # Errors
    /// When S3 did not answer, or refused.
    pub async fn put(&self, snapshot: &Snapshot) -> Result<Key, BackupError> {
        let Snapshot { taken_at, generation, swarm_id, content, .. } = snapshot;
        let key = Key::new(&self.prefix, *taken_at, *generation, swarm_id, &content.digest());
        // A time beyond the year 9999 has no such key.
        let key = key.ok_or_else(|| BackupError::Unreadable { key: self.place.clone() })?;
        let text = snapshot.to_text();
        if text.len() > LARGEST_ANSWER {
            return Err(BackupError::TooLarge { bytes: text.len() });
        }
        self.bucket.put(&key.text, &self.kms_key, text.as_bytes()).await?;
        Ok(key)
    }

    /// Reads a backup.
    ///
    /// # Errors
    /// When S3 did not answer, or refused, when it is that of another cluster, and as for [`Snapshot::parse`].
    pub async fn get(&self, key: &str) -> Result<Snapshot, BackupError> {
        let text = self.bucket.get(key).await?;
        let snapshot = Snapshot::parse(key, &text)?;
        if snapshot.cluster != self.cluster {
            let (key, cluster) = (key.to_owned(), snapshot.cluster);
            return Err(BackupError::OtherCluster { key, cluster });
        }
        Ok(snapshot)
    }

    /// Checks this host's clock against the answers of S3: keys hold its time, and the age of backups rests on it.
    ///
    /// # Errors
    /// [`BackupError::Clock`].
    pub fn check_clock(&self) -> Result<(), BackupError> {
        let error = self.bucket.clock_error();
        if error.is_zero() {
            Ok(())
        } else {
            Err(BackupError::Clock { seconds: error.whole_seconds() })
        }
    }

    /// Deletes a backup.
    ///
    /// # Errors
    /// When S3 did not answer, or refused.
    pub async fn delete(&self, key: &Key) -> Result<(), BackupError> {
        Ok(self.bucket.delete(&key.text).await?)
    }

    /// Returns the whole key of a backup that is named by it, or by its last part.
    ///
    /// # Errors
    /// As text: the key belongs elsewhere.
    pub fn key_of(&self, named: &str) -> Result<String, String> {
        let key = if named.starts_with(&self.prefix) {
            named.to_owned()
        } else {
            format!("{}{named}", self.prefix)
        };
        match Key::parse(&self.prefix, &key) {
            Some(key) => Ok(key.text),
            None => Err(format!("{named} is not the key of a backup in {}", self.place)),
        }
    }
}

/// Returns the newest backup of another swarm than this one.
#[must_use]
pub fn newest_of_another<'a>(keys: &'a [Key], swarm_id: &str) -> Option<&'a Key> {
    keys.iter().filter(|key| key.swarm_id != swarm_id).max()
}

#[cfg(test)]
mod tests {
    use time::macros::datetime;

    use super::*;

    #[test]
    fn a_key_tells_time_swarm_and_digest() {
        let at = datetime!(2026-12-01 02:48:00 UTC);
        let key = Key::new("skep/prod/", at, 3, "4zr5xz", "0123456789ab").unwrap();
        assert_eq!(key.text, "skep/prod/20261201T024800Z-3-4zr5xz-0123456789ab.json");
        assert_eq!((key.at, key.generation), (at, 3));
        assert_eq!((&*key.swarm_id, &*key.digest), ("4zr5xz", "0123456789ab"));
        for other in [
            "skep/other/20261201T024800Z-3-4zr5xz-0123456789ab.json",
            "skep/prod/20261201T024800Z-3-4zr5xz-0123456789ab",
            "skep/prod/20261301T024800Z-3-4zr5xz-0123456789ab.json",
            "skep/prod/20261201T024800Z-x-4zr5xz-0123456789ab.json",
            "skep/prod/20261201T024800Z-3-0123456789ab.json",
            "skep/prod/20261201T024800Z-3--0123456789ab.json",
            "skep/prod/20261201T024800Z-3-4zr5xz-../../x.json",
            "skep/prod/20261201T024800Z-3-4zr5xz-.json",
            "skep/prod/readme.json",
        ] {
            assert_eq!(Key::parse("skep/prod/", other), None, "{other}");
        }
    }

    #[test]
    fn the_newest_of_another_swarm_is_restored() {
        let at = datetime!(2026-12-01 00:00 UTC);
        let day = time::Duration::DAY;
        let keys = [(0, 1), (1, 1), (2, 2)].map(|(days, of)| Key::example(at + day * days, of));
        assert_eq!(newest_of_another(&keys, "s2"), Some(&keys[1]));
        assert_eq!(newest_of_another(&keys, "s3"), Some(&keys[2]));
        assert_eq!(newest_of_another(&keys[..2], "s1"), None);
    }
}
