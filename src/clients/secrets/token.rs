//! A join token: `SWMTKN-1-<CA digest, 50 of base 36>-<secret, 25 of base 36>`. In a swarm that requires FIPS, it
//! starts with `SWMTKN-2-1-` instead (`ParseJoinToken` in `ca/config.go` of swarmkit).

use secrecy::{ExposeSecret, SecretString};
use thiserror::Error;

use crate::common::errors::Explained;

const PREFIX: &str = "SWMTKN";
const DIGEST_LENGTH: usize = 50;
const SECRET_LENGTH: usize = 25;

/// A token with the correct form.
#[derive(Clone, Debug)]
pub struct JoinToken {
    token: SecretString,
    ca_digest: String,
}

/// The reason why a text is not a token. It does not contain the text.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Error)]
#[error("{}", self.sentence("; "))]
pub enum MalformedToken {
    /// The text is empty or white space.
    Empty,
    /// The text does not have the form of a join token.
    Shape,
}

impl Explained for MalformedToken {
    fn evidence(&self) -> String {
        match self {
            Self::Empty => "it is empty",
            Self::Shape => "it does not have the form SWMTKN-1-…",
        }
        .to_owned()
    }

    fn remedy(&self) -> Option<String> {
        Some("store the output of `docker swarm join-token -q` for this role".to_owned())
    }
}

impl JoinToken {
    /// Checks the form of a token.
    ///
    /// # Errors
    /// [`MalformedToken`], without any part of the text.
    pub fn parse(token: SecretString) -> Result<Self, MalformedToken> {
        let text = token.expose_secret().trim();
        if text.is_empty() {
            return Err(MalformedToken::Empty);
        }
        let is_base36 = |part: &str| {
            part.bytes().all(|byte| byte.is_ascii_digit() || byte.is_ascii_lowercase())
        };
        match text.split('-').collect::<Vec<_>>()[..] {
            // In version 2, the third part shows whether the swarm requires FIPS.
            [PREFIX, "1", digest, secret] | [PREFIX, "2", "0" | "1", digest, secret]
                if digest.len() == DIGEST_LENGTH
                    && secret.len() == SECRET_LENGTH
                    && is_base36(digest)
                    && is_base36(secret) =>
            {
                let ca_digest = digest.to_owned();
                Ok(Self { token: text.to_owned().into(), ca_digest })
            }
            _ => Err(MalformedToken::Shape),
        }
    }

    /// Returns the sha256 of the swarm's root CA in base 36. It is the same in both tokens of a swarm, and not secret.
    #[must_use]
    pub fn ca_digest(&self) -> &str {
        &self.ca_digest
    }

    /// Returns the whole token, for Docker only.
    #[must_use]
    pub fn secret(&self) -> &SecretString {
        &self.token
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::clients::ledger::fuzz;
    use crate::clients::secrets::UnlockKeys;

    const DIGEST: &str = "3pu6hszjas19xyp7ghgosyx9k8atbfcr8p2is99znpy26u2lkl";
    const SECRET: &str = "1awxwuwd3z9j1z3puu7rcgdbx";

    #[test]
    fn a_token_tells_its_ca_digest_and_hides_the_rest() {
        let token = JoinToken::parse(format!("SWMTKN-1-{DIGEST}-{SECRET}\n").into()).unwrap();
        assert_eq!(token.ca_digest(), DIGEST);
        assert_eq!(token.secret().expose_secret(), &format!("SWMTKN-1-{DIGEST}-{SECRET}"));
        assert!(!format!("{token:?}").contains(SECRET));
    }

    #[test]
    fn a_token_of_a_fips_swarm_has_five_parts() {
        for is_required in ["0", "1"] {
            let text = format!("SWMTKN-2-{is_required}-{DIGEST}-{SECRET}");
            let token = JoinToken::parse(text.clone().into()).unwrap();
            assert_eq!(token.ca_digest(), DIGEST);
            assert_eq!(token.secret().expose_secret(), &text);
        }
    }

    #[test]
    fn what_is_no_token_is_refused_without_being_quoted() {
        assert_eq!(JoinToken::parse(" \n".into()).unwrap_err(), MalformedToken::Empty);
        for text in [
            "None",
            "SWMTKN-1-abc-def",
            &format!("SWMTKN-9-{DIGEST}-{SECRET}"),
            &format!("SWMTKN-2-{DIGEST}-{SECRET}"),
            &format!("SWMTKN-2-2-{DIGEST}-{SECRET}"),
            &format!("SWMTKN-1-1-{DIGEST}-{SECRET}"),
            &DIGEST.repeat(2),
        ] {
            let error = JoinToken::parse(text.into()).unwrap_err();
            assert_eq!(error, MalformedToken::Shape);
            assert!(!error.to_string().contains(text));
        }
    }

    proptest! {
        /// Parsing any stored text does not panic, and refuses text that is not a secret.
        #[test]
        fn any_text_is_a_token_or_is_refused(text in fuzz::text(), is_prefixed in any::<bool>()) {
            let text = if is_prefixed { format!("SWMTKN-1-{text}") } else { text };
            prop_assert!(JoinToken::parse(text.clone().into()).is_err());
            let keys = UnlockKeys::parse(&text.into());
            prop_assert!(keys.is_none());
        }
    }
}
