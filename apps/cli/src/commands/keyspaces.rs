//! `keyspaces`: lists them, or drops one.

use crate::{
    failure::{Failure, Result},
    session::{self, HEADERS, KEY_BYTES_MAX, Sync, existing_keyspace, keyspace_name},
    text::Encoding,
};
use lightning_db::Database;
use serde_json::json;
use std::path::Path;

/// List the keyspaces in the order of their creation, or drop one
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
    /// Count the entries of each, by reading them all
    #[arg(long)]
    count: bool,
    /// Print a JSON object a line
    #[arg(long)]
    json: bool,
    /// Remove this keyspace with all that it holds
    #[arg(long, value_name = "NAME", value_parser = keyspace_name)]
    #[arg(conflicts_with_all = ["count", "json"])]
    drop: Option<String>,
}

pub(crate) fn run(args: Args) -> Result<()> {
    if let Some(name) = &args.drop {
        let config = Sync { sync: false }.config(KEY_BYTES_MAX);
        return session::change(&args.db.path, config, |db| drop_one(db, &args.db.path, name));
    }
    session::print(&args.db.path, |db, out| {
        for name in db.keyspaces()? {
            let mut entries = None;
            if args.count {
                let mut counted = 0u64;
                db.keyspace(&name)?.for_each(.., |_, _| counted += 1)?;
                entries = Some(counted);
            }
            let text = Encoding::Text.encode(name.as_bytes());
            match (args.json, entries) {
                (true, None) => out.json(&json!({ "name": name }))?,
                (true, Some(n)) => out.json(&json!({ "name": name, "entries": n }))?,
                (false, None) => out.line(text)?,
                (false, Some(n)) => out.line(format!("{text}\t{n}"))?,
            }
        }
        Ok(())
    })
}

fn drop_one(db: &Database, path: &Path, name: &str) -> Result<()> {
    existing_keyspace(db, path, name)?;
    if name == session::DEFAULT_KEYSPACE {
        let why = "the default keyspace cannot be dropped; `delete --range` empties it";
        return Err(Failure::Other(why.into()));
    }
    db.drop_keyspace(name)?;
    // What was its header row belongs to no keyspace of this name that may come later.
    if name != HEADERS && db.keyspaces()?.iter().any(|n| n == HEADERS) {
        db.keyspace(HEADERS)?.delete(name)?;
    }
    Ok(())
}
