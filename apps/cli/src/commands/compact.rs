//! `compact`: everything to where reading is fastest, and no unused space.

use crate::{failure::Result, session};
use lightning_db::LightningDbConfig;

/// Bring everything to where reading is fastest, and give space back that nothing uses
#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    db: session::Db,
}

pub(crate) fn run(args: Args) -> Result<()> {
    session::change(&args.db.path, LightningDbConfig::default(), |db| Ok(db.compact()?))
}
