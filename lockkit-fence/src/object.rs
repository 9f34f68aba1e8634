//! Objects with their fence in their metadata, replaced by conditional puts, by the crate `object_store`.
//!
//! ```
//! # futures_executor::block_on(async {
//! use std::sync::Arc;
//!
//! use lockkit_fence::FencingToken;
//! use lockkit_fence::object::FencedObject;
//! use object_store::memory::InMemory;
//!
//! let state = FencedObject::new(Arc::new(InMemory::new()), "state.json".into());
//! let (old, new) = (FencingToken::new(33)?, FencingToken::new(34)?);
//! state.write(old, "{}".into()).await?;
//! assert_eq!(state.read(new).await?, b"{}"); // raises the fence first
//! assert!(state.write(old, "late".into()).await.is_err());
//! # Ok::<(), lockkit_fence::Error>(()) }).expect("the new one passes");
//! ```
//!
//! It needs a store with conditional updates and metadata: S3, Google Cloud Storage, Azure, or the one in memory. `LocalFileSystem` offers neither, and every call says
//! so: there take `lockkit_fence::file`, or a fence elsewhere. Raising the fence puts the object once more, so it is for
//! objects of some kilobytes: states, manifests, pointers. Let nothing else write the object.

use std::fmt;
use std::sync::Arc;

use object_store::path::Path;
use object_store::{
    Attribute, Attributes, Error as StoreError, GetOptions, ObjectStore, PutMode, PutOptions,
    PutPayload, UpdateVersion,
};

use crate::cell::{parsed, text};
use crate::{Access, Error, Fencing, Result, Seen};

/// The name of the metadata; Azure takes letters and digits only.
const METADATA: &str = "lockkitfence";

/// An object that only the newest holder may write.
#[derive(Clone)]
pub struct FencedObject {
    store: Arc<dyn ObjectStore>,
    path: Path,
}

/// What stands in the store.
struct Found {
    bytes: Vec<u8>,
    attributes: Attributes,
    /// None: there is no such object.
    version: Option<UpdateVersion>,
}

impl FencedObject {
    /// The object at this path. Where there is none, raising the fence makes an empty one.
    pub fn new(store: Arc<dyn ObjectStore>, path: Path) -> Self {
        Self { store, path }
    }

    /// Raises the fence, before the new holder reads. Upholds C14.
    ///
    /// # Errors
    /// `Stale`: a newer token has been seen. `Invalid`: the metadata is no fence, or the store has no conditional updates. `Unavailable`: no answer.
    ///
    /// # Cancel safety
    /// As [`Fencing::raise`].
    pub async fn raise(&self, access: impl Into<Access> + Send) -> Result<()> {
        self.replace(access.into(), None).await.map(drop)
    }

    /// Raises the fence, and gives the object's bytes as they were then.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    ///
    /// # Cancel safety
    /// As [`raise`](Self::raise).
    pub async fn read(&self, access: impl Into<Access> + Send) -> Result<Vec<u8>> {
        self.replace(access.into(), None).await
    }

    /// Raises the fence, and replaces the object's bytes.
    ///
    /// # Errors
    /// As [`raise`](Self::raise); nothing is written after `Stale` and `Invalid`. After `Unavailable` the bytes may be there.
    ///
    /// # Cancel safety
    /// Dropped midway, the bytes may be written or not.
    pub async fn write(&self, access: impl Into<Access> + Send, bytes: Vec<u8>) -> Result<()> {
        self.replace(access.into(), Some(bytes)).await.map(drop)
    }

    /// Whether this access is not stale; remembers nothing.
    ///
    /// # Errors
    /// As [`raise`](Self::raise).
    ///
    /// # Cancel safety
    /// Cancel-safe.
    pub async fn check(&self, access: impl Into<Access> + Send) -> Result<()> {
        let access = access.into();
        Ok(self.seen(&self.find().await?.attributes, access)?.check(access)?)
    }

    /// Puts these bytes, or those that are there, with the fence raised, unless another client came first: then again.
    async fn replace(&self, access: Access, new: Option<Vec<u8>>) -> Result<Vec<u8>> {
        loop {
            let found = self.find().await?;
            let before = self.seen(&found.attributes, access)?;
            let mut raised = before;
            raised.raise(access)?;
            if new.is_none() && raised == before {
                return Ok(found.bytes);
            }
            let bytes = new.clone().unwrap_or(found.bytes);
            let mut attributes = found.attributes;
            attributes.insert(name(access), text(raised).into());
            let mode = found.version.map_or(PutMode::Create, PutMode::Update);
            let options = PutOptions { mode, attributes, ..PutOptions::default() };
            match self.store.put_opts(&self.path, PutPayload::from(bytes.clone()), options).await {
                Ok(_) => return Ok(bytes),
                Err(
                    StoreError::Precondition { .. }
                    | StoreError::AlreadyExists { .. }
                    | StoreError::NotFound { .. },
                ) => {}
                Err(error) => return Err(failed(error)),
            }
        }
    }

    async fn find(&self) -> Result<Found> {
        let found = match self.store.get_opts(&self.path, GetOptions::default()).await {
            Ok(found) => found,
            Err(StoreError::NotFound { .. }) => {
                return Ok(Found {
                    bytes: Vec::new(),
                    attributes: Attributes::default(),
                    version: None,
                });
            }
            Err(error) => return Err(failed(error)),
        };
        let version =
            UpdateVersion { e_tag: found.meta.e_tag.clone(), version: found.meta.version.clone() };
        let attributes = found.attributes.clone();
        let bytes = found.bytes().await.map_err(failed)?.to_vec();
        Ok(Found { bytes, attributes, version: Some(version) })
    }

    fn seen(&self, attributes: &Attributes, access: Access) -> Result<Seen> {
        let Some(value) = attributes.get(&name(access)) else { return Ok(Seen::NONE) };
        parsed(value.as_bytes()).ok_or_else(|| {
            let what = format!("the metadata {METADATA} of {} is no fence", self.path);
            Error::invalid(what, "let nothing else write it")
        })
    }
}

fn name(access: Access) -> Attribute {
    Attribute::Metadata(match access.slot() {
        None => METADATA.into(),
        Some(slot) => format!("{METADATA}slot{slot}").into(),
    })
}

fn failed(error: StoreError) -> Error {
    match error {
        StoreError::NotImplemented { .. } | StoreError::NotSupported { .. } => Error::invalid(
            format!("the object store has no conditional updates with metadata: {error}"),
            "take another store, or lockkit_fence::file on a local disk",
        ),
        StoreError::InvalidPath { .. } => {
            Error::invalid(error.to_string(), "name an object of the store")
        }
        error => Error::unavailable(error),
    }
}

impl fmt::Debug for FencedObject {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FencedObject").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Fencing for FencedObject {
    async fn raise(&self, access: Access) -> Result<()> {
        Self::raise(self, access).await
    }

    async fn check(&self, access: Access) -> Result<()> {
        Self::check(self, access).await
    }

    /// As durable as the object.
    fn is_durable(&self) -> bool {
        true
    }
}
