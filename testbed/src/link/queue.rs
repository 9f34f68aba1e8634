//! The bytes on their way through a link.

use std::collections::VecDeque;
use std::time::Instant;

use super::plan::End;

/// The most that a direction of a connection keeps.
const LIMIT: usize = 1 << 20;

/// The bytes that a direction has taken and not yet delivered, and the end behind them.
pub(super) struct Queue {
    chunks: VecDeque<Chunk>,
    pub(super) length: usize,
    taken: u64,
    ended: Option<(Instant, End)>,
    /// When a throttled direction may write again.
    pub(super) next: Instant,
}

struct Chunk {
    arrived: Instant,
    /// The place of its first byte in the stream.
    offset: u64,
    bytes: Vec<u8>,
    written: usize,
}

impl Queue {
    pub(super) fn new() -> Self {
        let next = Instant::now();
        Self { chunks: VecDeque::new(), length: 0, taken: 0, ended: None, next }
    }

    pub(super) fn has_room(&self) -> bool {
        self.ended.is_none() && self.length < LIMIT
    }

    pub(super) fn push(&mut self, bytes: &[u8]) {
        self.chunks.push_back(Chunk {
            arrived: Instant::now(),
            offset: self.taken,
            bytes: bytes.to_vec(),
            written: 0,
        });
        self.length += bytes.len();
        self.taken += bytes.len() as u64;
    }

    pub(super) fn push_end(&mut self, end: End) {
        self.ended = Some((Instant::now(), end));
    }

    /// When the next thing came, and its place in the stream.
    pub(super) fn front(&self) -> Option<(Instant, u64)> {
        let chunk = self.chunks.front().map(|chunk| (chunk.arrived, chunk.offset));
        chunk.or_else(|| self.ended.map(|(arrived, _)| (arrived, self.taken)))
    }

    /// The first bytes, so many at most; `None`: there is only the end.
    pub(super) fn bytes(&self, most: u64) -> Option<&[u8]> {
        let chunk = self.chunks.front()?;
        let bytes = &chunk.bytes[chunk.written..];
        Some(&bytes[..usize::try_from(most).unwrap_or(usize::MAX).min(bytes.len())])
    }

    /// How the sender ended, behind all bytes.
    pub(super) fn end(&self) -> Option<End> {
        self.ended.map(|(_, end)| end)
    }

    pub(super) fn consume(&mut self, count: usize) {
        self.length -= count;
        if let Some(chunk) = self.chunks.front_mut() {
            chunk.written += count;
            if chunk.written == chunk.bytes.len() {
                self.chunks.pop_front();
            }
        }
    }

    pub(super) fn clear(&mut self) -> u64 {
        self.chunks.clear();
        std::mem::take(&mut self.length) as u64
    }
}
