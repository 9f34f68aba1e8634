//! The testbed's reading of Redis's protocol.

use testbed::resp::{Reply, encode, parse};
use testbed::{Error, Framing, Resp};

fn text(text: &str) -> Reply {
    Reply::Bytes(text.into())
}

#[test]
fn a_value_is_read_whole_or_not_at_all() -> testbed::Result<()> {
    let cases: [(&[u8], Reply); 9] = [
        (b"+OK\r\n", Reply::Status("OK".into())),
        (b"-ERR no\r\n", Reply::Error("ERR no".into())),
        (b":-7\r\n", Reply::Integer(-7)),
        (b"$4\r\na\r\nb\r\n", text("a\r\nb")),
        (b"$-1\r\n", Reply::Nothing),
        (b"*-1\r\n", Reply::Nothing),
        (b"*2\r\n$1\r\na\r\n*1\r\n:1\r\n", {
            Reply::List(vec![text("a"), Reply::List(vec![Reply::Integer(1)])])
        }),
        (b"%1\r\n+a\r\n#t\r\n", Reply::List(vec![Reply::Status("a".into()), Reply::Integer(1)])),
        (b">1\r\n_\r\n", Reply::Push(vec![Reply::Nothing])),
    ];
    for (bytes, expected) in cases {
        for end in 0..bytes.len() {
            assert_eq!(parse(&bytes[..end])?, None, "{expected:?} cut after {end}");
        }
        let longer = [bytes, b"+more\r\n"].concat();
        assert_eq!(parse(&longer)?, Some((expected, bytes.len())));
    }
    Ok(())
}

#[test]
fn what_is_not_the_protocol_is_an_error() {
    let deep = "*1\r\n".repeat(100);
    for bytes in ["\r\n", "?\r\n", ":x\r\n", "$-2\r\n", "*x\r\n", &deep] {
        assert!(matches!(parse(bytes.as_bytes()), Err(Error::Answer(_))), "{bytes:?}");
    }
}

#[test]
fn requests_are_counted_when_their_last_byte_comes() {
    let bytes = [encode(&["set", "a", "1"]), encode(&["GET", "a"])].concat();
    let mut framing = Resp::requests();
    let names: Vec<(usize, String)> = (bytes.iter().enumerate())
        .flat_map(|(at, byte)| framing.feed(&[*byte]).into_iter().map(move |name| (at, name)))
        .collect();
    let last = encode(&["set", "a", "1"]).len() - 1;
    assert_eq!(names, [(last, "SET".to_owned()), (bytes.len() - 1, "GET".to_owned())]);
    assert!(framing.feed(b"\x16\x03\x01 no protocol\r\n").is_empty());
}
