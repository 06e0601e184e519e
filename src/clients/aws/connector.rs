//! The HTTP client of all calls to AWS: one TLS configuration with one copy of the host's CA certificates, and one set of
//! connections.

use std::sync::OnceLock;

use aws_config::{BehaviorVersion, ConfigLoader};
use aws_smithy_http_client::Connector;
use aws_smithy_http_client::tls::{Provider, rustls_provider::CryptoMode};
use aws_smithy_runtime_api::client::http::{
    HttpConnectorSettings, SharedHttpClient, SharedHttpConnector, http_client_fn,
};

use super::CONNECT_TIMEOUT;

/// Returns the client. The first call reads the host's CA certificates: 4 ms from the page cache, more than 20 ms from a
/// cold disk.
pub fn connector() -> SharedHttpConnector {
    static CONNECTOR: OnceLock<SharedHttpConnector> = OnceLock::new();
    let connect = || {
        let settings = HttpConnectorSettings::builder().connect_timeout(CONNECT_TIMEOUT).build();
        let connector = Connector::builder()
            .connector_settings(settings)
            .tls_provider(Provider::Rustls(CryptoMode::Ring));
        SharedHttpConnector::new(connector.build())
    };
    CONNECTOR.get_or_init(connect).clone()
}

/// Returns the same for the SDK's clients.
pub(crate) fn http_client() -> SharedHttpClient {
    http_client_fn(|_, _| connector())
}

/// Returns the SDK's configuration from the host's variables and files, with this client. The SDK has no other.
#[must_use]
pub fn sdk_defaults() -> ConfigLoader {
    aws_config::defaults(BehaviorVersion::latest()).http_client(http_client())
}
