//! Locks and fences inside a caller's own transaction.

use crate::common::{SLACK, by, config, join, ms};
use lockkit_core::{Error, FencingToken, LockName};
use lockkit_postgres::{FenceError, PostgresProvider, STALE, Strategy, TransactionLocks};
use sqlx::{Connection, PgConnection};
use testbed::{Data, PostgresServer};

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_in_a_transaction_excludes_sessions_and_ends_with_it() {
    let server = PostgresServer::start().unwrap();
    let provider = PostgresProvider::connect(config(&server.url(), Strategy::Advisory)).await;
    let (provider, name) = (provider.unwrap(), LockName::new("moved").unwrap());
    let lock = join(&server.url(), Strategy::Advisory).await.lock("moved");
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();

    let guard = lock.acquire().await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    assert!(provider.try_lock_in(&mut transaction, &name).await.unwrap().is_none());
    let first = guard.token();
    guard.release().await.unwrap();
    let second = provider.try_lock_in(&mut transaction, &name).await.unwrap().unwrap();
    assert!(second > first);
    assert!(lock.try_acquire().await.unwrap().is_none());
    let waiter = tokio::spawn(lock.acquire());
    tokio::time::sleep(ms(100)).await;
    transaction.commit().await.unwrap();
    let guard = by(SLACK, "a waiter behind a transaction", waiter).await.unwrap().unwrap();
    assert!(guard.token() > second);

    let mut transaction = connection.begin().await.unwrap();
    sqlx::raw_sql("SET LOCAL lock_timeout = 200").execute(&mut *transaction).await.unwrap();
    let late = provider.lock_in(&mut transaction, &name).await;
    assert!(matches!(late, Err(Error::TimedOut { .. })), "{late:?}");
    transaction.rollback().await.unwrap();
    guard.release().await.unwrap();

    // Rolled back to a savepoint before it, it is gone too.
    let mut transaction = connection.begin().await.unwrap();
    let mut inner = transaction.begin().await.unwrap();
    provider.lock_in(&mut inner, &name).await.unwrap();
    inner.rollback().await.unwrap();
    drop(by(SLACK, "freed with the savepoint", lock.acquire()).await.unwrap());

    let table = PostgresProvider::connect(config(&server.url(), Strategy::Table)).await.unwrap();
    let refused = table.lock_in(&mut transaction, &name).await;
    assert!(matches!(refused, Err(Error::Invalid { .. })), "{refused:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn locks_in_transactions_alone_open_no_connection_and_begin_an_epoch_after_a_crash() {
    let server = PostgresServer::start().unwrap();
    let (config, name) =
        (config(&server.url(), Strategy::Advisory), LockName::new("billing").unwrap());
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let locks = TransactionLocks::new(&config, &mut connection).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let first = locks.lock_in(&mut transaction, &name).await.unwrap();
    locks.fence_in(&mut transaction, "ledger", first).await.unwrap();
    assert_eq!(crate::common::connections(&server), 0, "beside the caller's");
    let mut other = PgConnection::connect(&server.url()).await.unwrap();
    let mut beside = other.begin().await.unwrap();
    assert!(locks.try_lock_in(&mut beside, &name).await.unwrap().is_none());
    transaction.commit().await.unwrap();
    let second = locks.try_lock_in(&mut beside, &name).await.unwrap().unwrap();
    assert!(second > first);
    beside.commit().await.unwrap();

    server.kill().unwrap();
    server.restart(Data::Kept).unwrap();
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let refused = locks.lock_in(&mut transaction, &name).await.unwrap_err();
    assert!(refused.to_string().contains("TransactionLocks::enter"), "{refused}");
    transaction.rollback().await.unwrap();
    locks.enter(&mut connection).await.unwrap();
    let mut transaction = connection.begin().await.unwrap();
    let third = locks.lock_in(&mut transaction, &name).await.unwrap();
    assert!(third > second);
    // It excludes the locks of sessions.
    let beside = join(&server.url(), Strategy::Advisory).await.lock("billing");
    assert!(beside.try_acquire().await.unwrap().is_none());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fence_refuses_an_older_token_and_the_write_with_it() {
    let server = PostgresServer::start().unwrap();
    server.sql("CREATE TABLE ledger (entry text)").unwrap();
    let token = |n| FencingToken::new(n).unwrap();
    for strategy in crate::common::BOTH {
        let provider = PostgresProvider::connect(config(&server.url(), strategy)).await.unwrap();
        let resource = format!("ledger of 'o''{strategy:?}");
        let mut connection = PgConnection::connect(&server.url()).await.unwrap();
        for (offered, newest) in [(5, None), (5, None), (7, None), (6, Some(7)), (8, None)] {
            let mut write = connection.begin().await.unwrap();
            let fenced = provider.fence_in(&mut write, &resource, token(offered)).await;
            match (&fenced, newest) {
                (Ok(()), None) => {
                    let entry = "INSERT INTO ledger VALUES ('written')";
                    sqlx::raw_sql(entry).execute(&mut *write).await.unwrap();
                    write.commit().await.unwrap();
                }
                (Err(FenceError::Stale(stale)), Some(newest)) => {
                    assert_eq!((stale.presented, stale.newest), (token(offered), token(newest)));
                    // The transaction is of no more use.
                    let entry = "INSERT INTO ledger VALUES ('stale')";
                    assert!(sqlx::raw_sql(entry).execute(&mut *write).await.is_err());
                }
                _ => panic!("{offered} was answered {fenced:?}"),
            }
        }
        // A refused write leaves the fence as it was.
        let mut write = connection.begin().await.unwrap();
        provider.fence_in(&mut write, &resource, token(9)).await.unwrap();
        write.rollback().await.unwrap();
        let mut write = connection.begin().await.unwrap();
        provider.fence_in(&mut write, &resource, token(8)).await.unwrap();
    }
    assert_eq!(server.sql("SELECT DISTINCT entry FROM ledger").unwrap(), "written");
    // A name that the server cannot keep is refused before it is asked.
    let provider = PostgresProvider::connect(config(&server.url(), Strategy::Table)).await.unwrap();
    let mut connection = PgConnection::connect(&server.url()).await.unwrap();
    let mut write = connection.begin().await.unwrap();
    let refused = provider.fence_in(&mut write, "a\0b", token(1)).await;
    assert!(matches!(refused, Err(FenceError::Store(Error::Invalid { .. }))), "{refused:?}");
    provider.fence_in(&mut write, "b", token(1)).await.unwrap();
    // From any language, by its SQLSTATE.
    server.sql("SELECT lockkit.fence('a', 2)").unwrap();
    let caught = format!(
        "DO $$ BEGIN PERFORM lockkit.fence('a', 1); RAISE 'not refused'; \
         EXCEPTION WHEN SQLSTATE '{STALE}' THEN NULL; END $$"
    );
    server.sql(&caught).unwrap();
}
