//! The queue in PostgreSQL of `docs/fencing.md`.

use sqlx::PgPool;
use testbed::PostgresServer;

const PAGE: &str = include_str!("../../../docs/fencing.md");

/// The statement of the page that begins so.
fn of_the_page(start: &str) -> &'static str {
    let from = PAGE.find(start).unwrap_or_else(|| panic!("the page has no {start:?}"));
    let rest = &PAGE[from..];
    &rest[..rest.find(';').expect("its end")]
}

async fn claimed(pool: &PgPool) -> Option<(i64, String, i64)> {
    let claim = sqlx::query_as(of_the_page("UPDATE jobs SET claim"));
    claim.fetch_optional(pool).await.expect("an answer")
}

/// Whether the effect of the job was committed.
async fn finished(pool: &PgPool, job: &(i64, String, i64), consumer: &str) -> bool {
    let mut transaction = pool.begin().await.expect("a transaction");
    let finish = sqlx::query(of_the_page("UPDATE jobs SET done")).bind(job.0).bind(job.2);
    if finish.execute(&mut *transaction).await.expect("an answer").rows_affected() == 0 {
        return false;
    }
    let effect = sqlx::query("INSERT INTO effects VALUES ($1, $2)").bind(&job.1).bind(consumer);
    effect.execute(&mut *transaction).await.expect("the effect");
    transaction.commit().await.expect("a commit");
    true
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_was_paused_finishes_no_job_that_was_claimed_again() {
    let server = PostgresServer::start().expect("PostgreSQL");
    let pool = PgPool::connect(&server.url()).await.expect("a connection");
    let run = async |statement: &'static str| {
        sqlx::raw_sql(statement).execute(&pool).await.expect("a statement");
    };
    run(of_the_page("CREATE TABLE jobs")).await;
    run("CREATE TABLE effects (payload text, consumer text)").await;
    run("INSERT INTO jobs (id, payload) VALUES (1, 'one'), (2, 'two')").await;
    let late = claimed(&pool).await.expect("the first job");
    let other = claimed(&pool).await.expect("the second job, not the claimed one");
    assert_eq!((late.0, late.2, other.0, claimed(&pool).await), (1, 1, 2, None));
    // The first consumer is paused for longer than a claim lasts.
    run("UPDATE jobs SET claimed_at = now() - interval '31 seconds' WHERE id = 1").await;
    let again = claimed(&pool).await.expect("the first job again");
    assert_eq!((again.0, again.2), (1, 2));
    assert!(!finished(&pool, &late, "late").await, "before the second consumer finishes");
    assert!(finished(&pool, &again, "second").await);
    assert!(!finished(&pool, &late, "late").await, "and behind it");
    assert!(!finished(&pool, &again, "second").await, "once only");
    assert!(finished(&pool, &other, "first").await);
    let effects = sqlx::query_as::<_, (String, String)>("SELECT * FROM effects ORDER BY payload");
    let effects = effects.fetch_all(&pool).await.expect("the effects");
    let told: Vec<_> =
        effects.iter().map(|(payload, consumer)| (&**payload, &**consumer)).collect();
    assert_eq!(told, [("one", "second"), ("two", "first")]);
}
