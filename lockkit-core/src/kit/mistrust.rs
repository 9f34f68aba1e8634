//! Why a TLS handshake failed.

/// Whether the text of an error says that one side did not accept the other's certificate. Drivers give
/// no more than rustls's text.
///
/// ```
/// use lockkit_core::kit::is_mistrust;
///
/// assert!(is_mistrust("invalid peer certificate: UnknownIssuer"));
/// assert!(is_mistrust("received fatal alert: CertificateRequired"));
/// assert!(!is_mistrust("received fatal alert: HandshakeFailure"));
/// ```
pub fn is_mistrust(text: &str) -> bool {
    let alert = text.split_once("fatal alert: ").map_or("", |(_, alert)| alert);
    text.contains("peer certificate")
        || alert.contains("Certificate")
        || alert.starts_with("UnknownCA")
}
