//! Creates identifiers and credentials in AWS's formats, reproducible by seed.

use fastrand::Rng;

const HEX: &[u8] = b"0123456789abcdef";
const BASE32: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZ234567";
const BASE64: &[u8] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

#[derive(Clone, Debug)]
pub(super) struct Ids(Rng);

impl Ids {
    pub(super) fn new(seed: u64) -> Self {
        Self(Rng::with_seed(seed))
    }

    fn characters(&mut self, alphabet: &[u8], length: usize) -> String {
        (0..length).map(|_| char::from(alphabet[self.0.usize(..alphabet.len())])).collect()
    }

    /// `i-` and 17 hexadecimal digits.
    pub(super) fn instance(&mut self) -> String {
        format!("i-0{}", self.characters(HEX, 16))
    }

    /// Returns hexadecimal digits.
    pub(super) fn hex(&mut self, length: usize) -> String {
        self.characters(HEX, length)
    }

    pub(super) fn uuid(&mut self) -> String {
        let h = self.characters(HEX, 31);
        format!("{}-{}-4{}-{}-{}", &h[..8], &h[8..12], &h[12..15], &h[15..19], &h[19..31])
    }

    /// Returns an id of temporary credentials, such as a role's.
    pub(super) fn access_key(&mut self) -> String {
        format!("ASIA{}", self.characters(BASE32, 16))
    }

    pub(super) fn secret(&mut self, length: usize) -> String {
        self.characters(BASE64, length)
    }
}

/// Returns an id of one request, for the answer's headers and body.
pub(super) fn request_id() -> String {
    Ids(Rng::new()).uuid()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shapes_of_aws_and_follow_the_seed() {
        let mut ids = Ids::new(7);
        let instance = ids.instance();
        assert_eq!(instance.len(), 19);
        assert!(instance.starts_with("i-0"));
        assert_eq!(ids.uuid().len(), 36);
        assert_eq!(ids.access_key().len(), 20);
        assert_eq!(Ids::new(7).instance(), instance);
        assert_ne!(Ids::new(8).instance(), instance);
    }
}
