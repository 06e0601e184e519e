//! `skep rotate-tokens`: renews the join tokens in Docker and in the secret store.

use std::process::ExitCode;

use clap::Args;

use super::print;
use crate::api::control::{Client, ClientError, socket_path};
use crate::clients::docker::Rotation;
use crate::config::Settings;

#[derive(Debug, Args)]
pub struct Arguments {
    /// Rotate the workers' token [default: both tokens]
    #[arg(long)]
    worker: bool,
    /// Rotate the managers' token
    #[arg(long)]
    manager: bool,
    /// Rotate the key that unlocks locked managers (autolock)
    #[arg(long)]
    unlock_key: bool,
    /// Print JSON
    #[arg(long)]
    json: bool,
}

impl Arguments {
    fn rotation(&self) -> Rotation {
        let is_default = !(self.worker || self.manager || self.unlock_key);
        Rotation {
            worker_token: self.worker || is_default,
            manager_token: self.manager || is_default,
            unlock_key: self.unlock_key,
        }
    }
}

/// Asks the skep on this manager to rotate, and waits until the store has the new values. No secret is printed.
///
/// # Errors
/// When no skep runs here or it refuses, or standard output cannot be written.
pub async fn ask(arguments: &Arguments, settings: &Settings) -> anyhow::Result<ExitCode> {
    let client = Client::new(socket_path(&settings.runtime_dir));
    let rotated = match client.rotate(arguments.rotation()).await {
        Ok(rotated) => rotated,
        // The reason is a complete message.
        Err(ClientError::Refused { why, .. }) => anyhow::bail!(why),
        Err(error @ ClientError::NoAnswer { .. }) => {
            let what =
                "cannot tell whether anything was rotated; see `skep status` and the journal";
            return Err(anyhow::Error::new(error).context(what));
        }
        Err(error) => return Err(error.into()),
    };
    print::to_stdout(&if arguments.json {
        format!("{:#}\n", serde_json::to_value(&rotated)?)
    } else {
        let places = rotated.stored_in.join(", ");
        format!("Rotated, and stored under generation {}: {places}\n", rotated.generation)
    })?;
    Ok(ExitCode::SUCCESS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_a_flag_it_is_both_tokens() {
        let rotation = |worker, manager, unlock_key| {
            let it = Arguments { worker, manager, unlock_key, json: false }.rotation();
            (it.worker_token, it.manager_token, it.unlock_key)
        };
        assert_eq!(rotation(false, false, false), (true, true, false));
        assert_eq!(rotation(true, false, false), (true, false, false));
        assert_eq!(rotation(false, true, false), (false, true, false));
        assert_eq!(rotation(false, false, true), (false, false, true));
    }
}
