//! The layer before a service of axum.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use axum::Router;
use axum::body::Body;
use axum::extract::{Extension, State};
use axum::http::{HeaderValue, Method, Request, Response, StatusCode};
use axum::routing::{get, put};
use lockkit_fence::conformance::{Fixture, Resource};
use lockkit_fence::http::{FenceLayer, HEADER, value};
use lockkit_fence::{Access, Error, Fence, Fencing, FencingToken, Result, Stale};
use tower::ServiceExt;

use crate::pauses::{self, Open};

/// The number behind the service.
type Kept = Arc<AtomicU64>;

pub(crate) struct Services;

pub(crate) struct Number {
    kept: Kept,
    service: Router,
    open: Router,
}

impl Fixture for Services {
    type Resource = Number;

    async fn fresh(&self) -> Number {
        let kept = Kept::default();
        let service = Router::new()
            .route("/", get(read).put(write).head(async || ()))
            .layer(FenceLayer::new(Fence::default()))
            .with_state(Arc::clone(&kept));
        let open = Router::new().route("/", put(write)).with_state(Arc::clone(&kept));
        Number { kept, service, open }
    }
}

async fn read(State(kept): State<Kept>) -> String {
    kept.load(Ordering::SeqCst).to_string()
}

/// A handler may take a while.
async fn write(State(kept): State<Kept>, _access: Option<Extension<Access>>, body: String) {
    tokio::task::yield_now().await;
    kept.store(body.parse().expect("a number"), Ordering::SeqCst);
}

impl Number {
    async fn answer(&self, method: Method, values: &[HeaderValue], body: String) -> Response<Body> {
        let mut request = Request::builder().method(method).uri("/");
        for value in values {
            request = request.header(HEADER, value);
        }
        let request = request.body(Body::from(body)).expect("a request");
        self.service.clone().oneshot(request).await.expect("an answer")
    }

    /// What the service answers to this access, or its refusal with the newest token.
    async fn ask(&self, method: Method, access: Access, body: String) -> Result<String> {
        let answer = self.answer(method, &[value(access)], body).await;
        match answer.status() {
            StatusCode::OK => Ok(text(answer).await),
            StatusCode::PRECONDITION_FAILED => {
                let newest = lockkit_fence::http::access(answer.headers())?
                    .expect("the newest token")
                    .token();
                Err(Stale { presented: access.token(), newest }.into())
            }
            other => Err(Error::unavailable(other.to_string())),
        }
    }
}

async fn text(answer: Response<Body>) -> String {
    let bytes = axum::body::to_bytes(answer.into_body(), 1000).await.expect("a body");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The header raises: a `HEAD` request does nothing else.
impl Fencing for Number {
    async fn raise(&self, access: Access) -> Result<()> {
        self.ask(Method::HEAD, access, String::new()).await.map(drop)
    }

    /// The layer has no way to only check.
    async fn check(&self, access: Access) -> Result<()> {
        self.raise(access).await
    }

    fn is_durable(&self) -> bool {
        false
    }
}

impl Resource for Number {
    async fn begin(&self, access: Access) -> Result<u64> {
        Ok(self.ask(Method::GET, access, String::new()).await?.parse().expect("a number"))
    }

    async fn write(&self, access: Access, value: u64) -> Result<()> {
        self.ask(Method::PUT, access, value.to_string()).await.map(drop)
    }

    async fn restarted(self) -> Self {
        self
    }
}

impl Open for Number {
    async fn peek(&self) -> u64 {
        self.kept.load(Ordering::SeqCst)
    }

    async fn overwrite(&self, value: u64) {
        let request = Request::put("/").body(Body::from(value.to_string())).expect("a request");
        let answer = self.open.clone().oneshot(request).await.expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_service_behind_the_layer_keeps_every_update() {
    let failed = lockkit_fence::conformance::failures(&Services).await;
    // There is no request that checks and does not raise.
    let by_check = ["FN-02", "FN-10"];
    let others: Vec<_> = failed
        .iter()
        .filter(|failure| !by_check.iter().any(|case| failure.case.starts_with(case)))
        .collect();
    assert_eq!(others, Vec::<&lockkit_fence::conformance::Failure>::new());
    pauses::reads_after_raising(&Services).await;
    pauses::keeps_updates(&Services, 1, pauses::FEW).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "minutes; `cargo xtask soak` runs it"]
async fn twenty_pauses_of_holders_lose_no_update_behind_the_layer() {
    pauses::keeps_updates(&Services, 2, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_request_without_one_readable_token_does_not_reach_the_service() {
    let number = Services.fresh().await;
    let values = |texts: &[&'static str]| -> Vec<_> {
        texts.iter().map(|text| HeaderValue::from_static(text)).collect()
    };
    let refused: [(&[&str], StatusCode, &str); 5] = [
        (&[], StatusCode::PRECONDITION_REQUIRED, "send the header"),
        (&["34", "34"], StatusCode::BAD_REQUEST, "twice"),
        (&["0"], StatusCode::BAD_REQUEST, "fencing token 0"),
        (&["thirty"], StatusCode::BAD_REQUEST, "decimal"),
        (&["34; slot=x"], StatusCode::BAD_REQUEST, "slot"),
    ];
    for (texts, status, said) in refused {
        let answer = number.answer(Method::PUT, &values(texts), "7".to_owned()).await;
        assert_eq!(answer.status(), status, "{texts:?}");
        let text = text(answer).await;
        assert!(text.contains(said), "{texts:?}: {text}");
    }
    assert_eq!(number.peek().await, 0, "nothing is written");
    let token = |value| Access::from(FencingToken::new(value).expect("a token"));
    number.write(token(1_800_000_000_000_000), 7).await.expect("the first token");
    let far = number.answer(Method::PUT, &[value(token(41))], "8".to_owned()).await;
    assert_eq!(
        (far.status(), far.headers()[HEADER].to_str().ok()),
        (StatusCode::PRECONDITION_FAILED, Some("1800000000000000"))
    );
    assert!(text(far).await.contains("another store"));
    assert_eq!(number.peek().await, 7);
}
