//! Fences in the metadata of objects.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::object::FencedObject;
use lockkit_fence::{Access, Error, Fencing, FencingToken, Result};
use object_store::local::LocalFileSystem;
use object_store::memory::InMemory;
use object_store::path::Path;
use object_store::{Attribute, Attributes, ObjectStore, ObjectStoreExt, PutOptions};

use crate::pauses::{self, Open};

pub(crate) struct Objects {
    store: Arc<dyn ObjectStore>,
    names: AtomicU64,
}

pub(crate) struct Number {
    store: Arc<dyn ObjectStore>,
    path: Path,
    object: FencedObject,
}

impl Objects {
    pub(crate) fn start() -> Self {
        Self { store: Arc::new(InMemory::new()), names: AtomicU64::new(0) }
    }
}

impl Fixture for Objects {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        let path = Path::from(format!("number-{}", self.names.fetch_add(1, Ordering::Relaxed)));
        let object = FencedObject::new(Arc::clone(&self.store), path.clone());
        Number { store: Arc::clone(&self.store), path, object }
    }
}

fn number(bytes: &[u8]) -> u64 {
    let text = String::from_utf8_lossy(bytes);
    if text.is_empty() { 0 } else { text.parse().expect("a number") }
}

impl Fencing for Number {
    async fn raise(&self, access: Access) -> Result<()> {
        self.object.raise(access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        self.object.check(access).await
    }

    fn is_durable(&self) -> bool {
        self.object.is_durable()
    }
}

impl Resource for Number {
    async fn begin(&self, access: Access) -> Result<u64> {
        Ok(number(&self.object.read(access).await?))
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        self.object.write(access, value.to_string().into()).await
    }

    /// The program's: the store in memory has none.
    async fn restarted(self) -> Self {
        let object = FencedObject::new(Arc::clone(&self.store), self.path.clone());
        Self { object, ..self }
    }
}

impl Open for Number {
    async fn peek(&self) -> u64 {
        match self.store.get(&self.path).await {
            Ok(found) => number(&found.bytes().await.expect("bytes")),
            Err(_) => 0,
        }
    }

    async fn overwrite(&self, value: u64) {
        self.store.put(&self.path, value.to_string().into()).await.expect("a write");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_of_an_object_passes_every_case_and_keeps_every_update() {
    pauses::holds(&Objects::start()).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn twenty_pauses_of_holders_lose_no_update_behind_a_fence_of_an_object() {
    pauses::keeps_updates(&Objects::start(), 2, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn object_stores_refuse_with_a_clear_error_what_they_cannot_serve() {
    let token = |value| FencingToken::new(value).expect("a token");
    let directory = tempfile::tempdir().expect("a directory");
    let local = LocalFileSystem::new_with_prefix(directory.path()).expect("a store");
    let object = FencedObject::new(Arc::new(local), "state".into());
    let error = object.write(token(5), b"new".to_vec()).await.expect_err("no conditional updates");
    let text = error.to_string();
    assert!(
        matches!(&error, Error::Invalid { .. }) && text.contains("lockkit_fence::file"),
        "{text}"
    );
    assert!(!directory.path().join("state").exists(), "nothing is written");

    let number = Objects::start().fresh().await;
    let mut attributes = Attributes::new();
    attributes.insert(Attribute::Metadata("lockkitfence".into()), "something else".into());
    attributes.insert(Attribute::ContentType, "text/plain".into());
    let options = PutOptions { attributes, ..PutOptions::default() };
    number.store.put_opts(&number.path, "7".into(), options).await.expect("an object");
    let error = number.write(token(5).into(), 8).await.expect_err("no fence");
    assert!(
        matches!(&error, Error::Invalid { .. }) && error.to_string().contains("is no fence"),
        "{error}"
    );
    assert_eq!(number.peek().await, 7);

    let number = Objects::start().fresh().await;
    number.write(token(1_800_000_000_000_000).into(), 7).await.expect("the first token");
    let error = number.write(token(41).into(), 8).await.expect_err("far below");
    assert!(error.to_string().contains("another store"), "{error}");
    assert_eq!(number.peek().await, 7);
}
