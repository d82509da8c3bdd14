//! TLS of the connections: reads certificates and keys in PEM.

use std::sync::Arc;

use tokio_rustls::TlsAcceptor;
use tokio_rustls::rustls::crypto::ring;
use tokio_rustls::rustls::pki_types::pem::PemObject;
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};
use tokio_rustls::rustls::server::WebPkiClientVerifier;
use tokio_rustls::rustls::{RootCertStore, ServerConfig};

/// The server's key, its chain of certificates, and the authorities of clients' certificates, if clients need one.
pub type Pem = (Vec<u8>, Vec<u8>, Option<Vec<u8>>);

/// Returns what does the handshakes, or why the texts cannot be used.
pub fn acceptor((key, chain, client_ca): Pem) -> Result<TlsAcceptor, String> {
    let provider = Arc::new(ring::default_provider());
    let key = PrivateKeyDer::from_pem_slice(&key).map_err(|error| format!("server_key: {error}"))?;
    let builder = ServerConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|error| error.to_string())?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(authorities) => {
            let wrong = |error: &dyn std::fmt::Display| format!("custom_ca: {error}");
            let mut roots = RootCertStore::empty();
            for authority in certificates("custom_ca", &authorities)? {
                roots.add(authority).map_err(|error| wrong(&error))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider);
            builder.with_client_cert_verifier(verifier.build().map_err(|error| wrong(&error))?)
        }
    };
    let mut config = builder
        .with_single_cert(certificates("server_cert", &chain)?, key)
        .map_err(|error| format!("server_key and server_cert: {error}"))?;
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(TlsAcceptor::from(Arc::new(config)))
}

/// Returns the certificates in a PEM text; `field` is its name in the configuration file.
fn certificates(field: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, String> {
    let found: Result<Vec<_>, _> = CertificateDer::pem_slice_iter(pem).collect();
    match found {
        Ok(found) if found.is_empty() => Err(format!("{field}: holds no certificate")),
        Ok(found) => Ok(found),
        Err(error) => Err(format!("{field}: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_are_no_pem_are_refused_with_their_field() {
        let said = |pem: Pem| acceptor(pem).err().unwrap();
        assert!(said((b"".into(), b"".into(), None)).starts_with("server_key: "));
        let damaged = b"-----BEGIN CERTIFICATE-----\n?\n-----END CERTIFICATE-----\n";
        assert!(certificates("custom_ca", damaged).unwrap_err().starts_with("custom_ca: "));
        assert_eq!(certificates("custom_ca", b"").unwrap_err(), "custom_ca: holds no certificate");
    }

    #[test]
    fn several_certificates_are_a_chain() {
        let one = "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n";
        assert_eq!(certificates("server_cert", one.repeat(3).as_bytes()).unwrap().len(), 3);
    }
}
