//! Opens a database, writes, reads, scans, and does two things as one.
//!
//!     cargo run --example basic_usage [DIRECTORY]

use lightning_db::{Database, Error, LightningDbConfig};

fn main() -> Result<(), Error> {
    let scratch = tempfile::tempdir().expect("a temporary directory");
    let dir = std::env::args_os().nth(1).map_or_else(|| scratch.path().join("db"), Into::into);
    // `durable`: a commit that returned survives a loss of power.
    let db = Database::open_or_create(dir, LightningDbConfig::durable())?;

    db.put("user:1", "Ada")?;
    db.put("user:2", "Grace")?;
    println!("user:1 is {}", String::from_utf8_lossy(&db.get("user:1")?.unwrap_or_default()));

    for entry in db.scan_prefix("user:")? {
        let (key, value) = entry?;
        println!("{} = {}", String::from_utf8_lossy(&key), String::from_utf8_lossy(&value));
    }

    // Renames a user: nobody ever sees both names, or none, and if another thread writes one of the two keys
    // meanwhile, it is done again.
    let renamed = db.execute_transaction(|tx| {
        let Some(name) = tx.get("user:2")? else {
            return Ok(false);
        };
        tx.delete("user:2")?;
        tx.put("user:3", name)?;
        Ok(true)
    })?;
    println!("renamed: {renamed}");
    assert_eq!(db.get("user:3")?.as_deref(), Some(&b"Grace"[..]));
    assert_eq!(db.get("user:2")?, None);
    db.close()
}
