//! `postgres:` and `postgresql:`.

use lockkit_core::{Builder, Error, Locks, Result};
use lockkit_postgres::{PostgresConfig, PostgresProvider, Strategy};
use url::Url;

use super::address::Options;

/// The options beyond those that every store knows.
const OPTIONS: &str = ", strategy, schema, connections, budget, creates, and the connection's own";

pub(super) async fn connect(rest: &str, builder: Builder) -> Result<Locks> {
    let (config, options) = parse(rest)?;
    let (builder, token_base) = options.apply(builder, OPTIONS)?;
    let provider = PostgresProvider::connect(config.token_base(token_base)).await?;
    Ok(builder.build(provider))
}

fn parse(rest: &str) -> Result<(PostgresConfig, Options)> {
    // The parser's own words never repeat the URL, so no password either.
    let mut url = Url::parse(&format!("postgres:{rest}")).map_err(|error| {
        Error::invalid(
            format!("a postgres: URL that cannot be read ({error})"),
            "write postgres://[user[:password]@]host[:port][/database], with special characters \
             as %XX",
        )
    })?;
    if url.fragment().is_some() {
        return Err(Error::invalid("a URL with a #", "write it as %23, or leave it out"));
    }
    let mut options = Options::parse(url.query().unwrap_or_default())?;
    let strategy = match options.take("strategy").as_deref() {
        None | Some("advisory") => Strategy::Advisory,
        Some("table") => Strategy::Table,
        Some(other) => {
            let what = format!("strategy={other}");
            return Err(Error::invalid(what, "give advisory or table"));
        }
    };
    let creates = match options.take("creates").as_deref() {
        None | Some("true") => true,
        Some("false") => false,
        Some(other) => {
            return Err(Error::invalid(format!("creates={other}"), "give true or false"));
        }
    };
    let schema = options.take("schema");
    let connections = number(&mut options, "connections")?;
    let budget = number(&mut options, "budget")?;
    url.set_query(None);
    for option in PostgresConfig::CONNECTION_OPTIONS {
        if let Some(value) = options.take(option) {
            url.query_pairs_mut().append_pair(option, &value);
        }
    }
    let mut config = PostgresConfig::from_url(url.as_str())?.strategy(strategy).creates(creates);
    if let Some(schema) = schema {
        config = config.schema(schema);
    }
    if let Some(connections) = connections {
        config = config.connections(connections);
    }
    if let Some(budget) = budget {
        config = config.budget(budget);
    }
    Ok((config, options))
}

fn number(options: &mut Options, option: &str) -> Result<Option<usize>> {
    let Some(text) = options.take(option) else { return Ok(None) };
    let number = text
        .parse()
        .map_err(|_| Error::invalid(format!("{option}={text}"), "give a whole number"))?;
    Ok(Some(number))
}
