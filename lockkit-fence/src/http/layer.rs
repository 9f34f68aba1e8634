//! The tower layer.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{Request, Response, StatusCode};
use tokio::sync::RwLock;
use tower_layer::Layer;
use tower_service::Service;

use super::header::{HEADER, access, value};
use crate::{Access, Error, Fencing};

/// Puts a service behind a fence: stale requests are answered 412 and do not reach it.
///
/// The requests of exclusive grants, and of a semaphore's, run one after the other, those of shared grants together: so no stale one is still at work
/// while a newer one is let in. What the service does must end with its answer, and one process must serve the resource: two
/// processes with one durable fence refuse stale tokens too, but a stale request may be at work in one while the other lets a newer one in. Where the
/// service writes to a database, let it raise the fence there ([`sql`](crate::sql)), with the [`Access`] that the
/// layer puts into the request's extensions.
///
/// | answer | why |
/// |---|---|
/// | 400 | the header is there twice, or is no token |
/// | 412 | the token is stale; the header of the answer has the newest |
/// | 428 | there is no such header |
/// | 500, 503 | the fence refused otherwise, or did not answer |
///
/// Upholds C14.
pub struct FenceLayer<F> {
    fence: Arc<RwLock<F>>,
}

impl<F: Fencing> FenceLayer<F> {
    /// The layer with this fence, which is the one of the whole service: give each resource a layer of its own. [`Fence`](crate::Fence) forgets
    /// its tokens when the process ends; take one that is durable for a value that outlives it.
    pub fn new(fence: F) -> Self {
        Self { fence: Arc::new(RwLock::new(fence)) }
    }
}

impl<F> Clone for FenceLayer<F> {
    fn clone(&self) -> Self {
        Self { fence: Arc::clone(&self.fence) }
    }
}

impl<F> fmt::Debug for FenceLayer<F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceLayer").finish_non_exhaustive()
    }
}

impl<S, F> Layer<S> for FenceLayer<F> {
    type Service = FenceService<S, F>;

    fn layer(&self, service: S) -> FenceService<S, F> {
        FenceService { service, layer: self.clone() }
    }
}

/// A service behind a fence: see [`FenceLayer`].
pub struct FenceService<S, F> {
    service: S,
    layer: FenceLayer<F>,
}

impl<S: Clone, F> Clone for FenceService<S, F> {
    fn clone(&self) -> Self {
        Self { service: self.service.clone(), layer: self.layer.clone() }
    }
}

impl<S: fmt::Debug, F> fmt::Debug for FenceService<S, F> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FenceService").field("service", &self.service).finish_non_exhaustive()
    }
}

impl<S, F, B, R> Service<Request<B>> for FenceService<S, F>
where
    S: Service<Request<B>, Response = Response<R>> + Clone + Send + 'static,
    S::Future: Send,
    F: Fencing + Send + Sync + 'static,
    B: Send + 'static,
    R: From<String>,
{
    type Response = Response<R>;
    type Error = S::Error;
    type Future = Pin<Box<dyn Future<Output = Result<Response<R>, S::Error>> + Send>>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.service.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        // The one that said that it is ready.
        let clone = self.service.clone();
        let mut service = std::mem::replace(&mut self.service, clone);
        let fence = Arc::clone(&self.layer.fence);
        Box::pin(async move {
            let access = match access(request.headers()) {
                Ok(Some(access)) => access,
                Ok(None) => return Ok(missing()),
                Err(error) => return Ok(refusal(StatusCode::BAD_REQUEST, &error)),
            };
            request.extensions_mut().insert(access);
            if access.is_shared() {
                let fence = fence.read().await;
                served(&*fence, access, &mut service, request).await
            } else {
                let fence = fence.write().await;
                served(&*fence, access, &mut service, request).await
            }
        })
    }
}

/// Raises the fence and serves the request, both under the caller's lock.
async fn served<S, B, R>(
    fence: &(impl Fencing + Sync),
    access: Access,
    service: &mut S,
    request: Request<B>,
) -> Result<Response<R>, S::Error>
where
    S: Service<Request<B>, Response = Response<R>>,
    R: From<String>,
{
    match fence.raise(access).await {
        Ok(()) => service.call(request).await,
        Err(Error::Stale(stale)) => {
            let mut answer = refusal(StatusCode::PRECONDITION_FAILED, &stale);
            answer.headers_mut().insert(HEADER, value(stale.newest));
            Ok(answer)
        }
        Err(error @ Error::Unavailable(_)) => Ok(refusal(StatusCode::SERVICE_UNAVAILABLE, &error)),
        Err(error) => Ok(refusal(StatusCode::INTERNAL_SERVER_ERROR, &error)),
    }
}

fn missing<R: From<String>>() -> Response<R> {
    let why = "send the header Lockkit-Fencing-Token with the token of the lock, reads too";
    refusal(StatusCode::PRECONDITION_REQUIRED, &why)
}

fn refusal<R: From<String>>(status: StatusCode, why: &impl fmt::Display) -> Response<R> {
    let mut answer = Response::new(R::from(format!("{why}\n")));
    *answer.status_mut() = status;
    answer
}
