//! Signs events: a receiver can verify that the sender has the secret, and when it sent the event.

use hmac::{Hmac, KeyInit, Mac};
use sha2::Sha256;

/// Returns the value of the header `X-Skep-Signature`: `t=<seconds since 1970>,v1=<hexadecimal digits>`, where `v1` is
/// the HMAC-SHA256 of `<t>.<body>`. The time is signed, so that a receiver can refuse a replayed old message.
#[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
pub fn sign(secret: &[u8], time: i64, body: &str) -> String {
    let mut mac = Hmac::<Sha256>::new_from_slice(secret).expect("a key of any length will do");
    mac.update(format!("{time}.{body}").as_bytes());
    format!("t={time},v1={}", hex::encode(mac.finalize().into_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_is_what_openssl_makes_of_it() {
        // printf '1700000000.{"event":"left"}' | openssl dgst -sha256 -hmac 'hive'
        const OPENSSL: &str = "fd2e4c23e4bae99ce30b2495565ff690af41993ae631059677a5b509d29b6065";
        let signed = sign(b"hive", 1_700_000_000, r#"{"event":"left"}"#);
        assert_eq!(signed, format!("t=1700000000,v1={OPENSSL}"));
    }
}
