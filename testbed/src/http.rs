//! One request over plain HTTP, to ask a server about itself.

use std::io::{Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::Duration;

/// A server that is paused does not answer: better an error than a test that hangs.
const ANSWER_WITHIN: Duration = Duration::from_secs(1);

/// Sends a JSON text, and gives the one of the answer.
///
/// # Errors
/// Why there is none.
pub(crate) fn post(
    address: SocketAddr,
    path: &str,
    json: &str,
) -> Result<serde_json::Value, String> {
    let answer = exchange(address, path, json).map_err(|error| error.to_string())?;
    let (head, body) = answer.split_once("\r\n\r\n").ok_or("an answer that is not HTTP")?;
    let status = head.split_whitespace().nth(1).unwrap_or_default();
    if status != "200" {
        return Err(format!("status {status}: {body}"));
    }
    serde_json::from_str(body).map_err(|error| error.to_string())
}

/// HTTP/1.0, so that the answer comes in one piece and ends with the connection.
fn exchange(address: SocketAddr, path: &str, json: &str) -> std::io::Result<String> {
    let mut stream = TcpStream::connect_timeout(&address, ANSWER_WITHIN)?;
    stream.set_read_timeout(Some(ANSWER_WITHIN))?;
    stream.set_write_timeout(Some(ANSWER_WITHIN))?;
    let length = json.len();
    write!(stream, "POST {path} HTTP/1.0\r\nContent-Length: {length}\r\n\r\n{json}")?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}
