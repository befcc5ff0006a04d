//! The verbs about a database as a whole: its keyspaces, what is durable, its space, checks, its end.

use super::Database;
use crate::{
    db::{
        check::{CheckProgress, IntegrityReport},
        stats::DatabaseStats,
    },
    error::Result,
    handles::{Keyspace, KeyspaceOptions},
};
use std::sync::Arc;

impl Database {
    /// The keyspace with this name, created if there is none. A name has 1 to 255 bytes.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let users = db.keyspace("users")?;
    /// users.put("1", "Ada")?;
    /// assert_eq!(db.get("1")?, None);
    /// assert_eq!(db.keyspace("users")?.get("1")?, Some(b"Ada".to_vec()));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`InvalidArgument`](crate::Error::InvalidArgument) for a name that cannot be,
    /// [`NoSpace`](crate::Error::NoSpace), [`Poisoned`](crate::Error::Poisoned),
    /// [`Closed`](crate::Error::Closed).
    pub fn keyspace(&self, name: &str) -> Result<Keyspace> {
        self.keyspace_with(name, KeyspaceOptions::default())
    }

    /// [`keyspace`](Database::keyspace), created with `options`. One that exists keeps its own.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Compression, Database, KeyspaceOptions, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let options = KeyspaceOptions { compression: Some(Compression::None), ..Default::default() };
    /// let images = db.keyspace_with("images", options)?;
    /// # assert_eq!(images.name(), "images");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// As [`keyspace`](Database::keyspace).
    pub fn keyspace_with(&self, name: &str, options: KeyspaceOptions) -> Result<Keyspace> {
        let handle = Arc::clone(self.handle());
        let id = handle.db.open_keyspace(name, options.compression, options.storage_kind)?;
        Ok(Keyspace { handle, id, name: name.into() })
    }

    /// The names of all keyspaces, in the order of their creation.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.keyspace("users")?;
    /// assert_eq!(db.keyspaces()?, ["default", "users"]);
    /// db.drop_keyspace("users")?;
    /// assert_eq!(db.keyspaces()?, ["default"]);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn keyspaces(&self) -> Result<Vec<String>> {
        self.handle().db.check_open()?;
        let (version, _) = self.handle().db.view();
        Ok(version.keyspaces.iter().map(|k| k.name.to_string()).collect())
    }

    /// Removes a keyspace with all that it holds. Handles of it answer
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound) from then on; a keyspace created with
    /// the same name later is another one. Snapshots made before still read it.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// let old = db.keyspace("old")?;
    /// db.drop_keyspace("old")?;
    /// assert!(matches!(old.put("key", ""), Err(Error::KeyspaceNotFound { .. })));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`KeyspaceNotFound`](crate::Error::KeyspaceNotFound);
    /// [`InvalidArgument`](crate::Error::InvalidArgument) for the default keyspace; as
    /// [`keyspace`](Database::keyspace).
    pub fn drop_keyspace(&self, name: &str) -> Result<()> {
        self.handle().db.drop_keyspace(name)
    }

    /// Makes everything durable that was committed before the call.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// db.checkpoint()?; // a loss of power does not take it any more
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Poisoned`](crate::Error::Poisoned), [`Closed`](crate::Error::Closed).
    pub fn checkpoint(&self) -> Result<()> {
        self.handle().db.check_open()?;
        self.handle().db.sync()
    }

    /// Brings everything that was committed before the call to where reading is fastest, and gives space
    /// back that nothing uses. Reads and writes go on meanwhile. Space that is in use by snapshots and
    /// iterators follows after they are gone. Nothing need call this: the same happens by itself once
    /// nothing was written for half a minute.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// for i in 0..1000_u32 {
    ///     db.put(i.to_be_bytes(), "value")?;
    /// }
    /// db.compact()?;
    /// assert_eq!(db.stats()?.keyspaces[0].tables, 0);
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// What a flush or merge of this moment fails with, such as [`NoSpace`](crate::Error::NoSpace): it is
    /// tried again in the background; [`Poisoned`](crate::Error::Poisoned),
    /// [`Closed`](crate::Error::Closed).
    pub fn compact(&self) -> Result<()> {
        self.handle().db.compact()
    }

    /// Numbers about the database. See [`DatabaseStats`].
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// let stats = db.stats()?;
    /// assert_eq!(stats.visible_seq, 1);
    /// assert_eq!(stats.keyspaces[0].name, "default");
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed).
    pub fn stats(&self) -> Result<DatabaseStats> {
        self.handle().db.check_open()?;
        Ok(self.handle().db.stats())
    }

    /// Reads every sstable, every tree and every large value whole, and compares them with their checksums, with what
    /// they say of themselves and with each other: that keys ascend and lie where a search looks for them, that no node
    /// is empty, that every page of the trees' file has one use, that every file of a large value has something that
    /// names it. What is damaged, of a newer version or cannot be read is listed in the report, not returned as an
    /// error, and the rest is checked all the same. Only where a branch of a tree is among it, the pages below are not
    /// known, and whether all pages have a use is not asked.
    /// Others may read and write meanwhile; what they write is not checked.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.put("key", "value")?;
    /// assert!(db.check_integrity()?.faults.is_empty());
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Closed`](crate::Error::Closed); [`Io`](crate::Error::Io), if memory is short.
    pub fn check_integrity(&self) -> Result<IntegrityReport> {
        self.check_integrity_with(|_| {})
    }

    /// Like [`check_integrity`](Database::check_integrity), and tells again and again how far it is.
    /// See [`CheckProgress`].
    ///
    /// # Errors
    /// As [`check_integrity`](Database::check_integrity).
    pub fn check_integrity_with(
        &self,
        mut progress: impl FnMut(CheckProgress),
    ) -> Result<IntegrityReport> {
        self.handle().db.check_open()?;
        self.handle().db.check_integrity(&mut progress)
    }

    /// Makes everything durable and closes the database. From then on every handle, snapshot and
    /// iterator answers [`Closed`](crate::Error::Closed). Closing twice does nothing, but tells again if
    /// something could not be made durable. Dropping the last handle closes too, but cannot tell of a
    /// failure.
    ///
    /// The directory can be opened again once every handle, snapshot and iterator is gone.
    ///
    /// ```
    /// # let dir = tempfile::tempdir().unwrap();
    /// # let path = dir.path().join("db");
    /// # use lightning_db::{Database, Error, LightningDbConfig};
    /// # let db = Database::create(&path, LightningDbConfig::default())?;
    /// db.close()?;
    /// assert!(matches!(db.get("key"), Err(Error::Closed)));
    /// # Ok::<(), lightning_db::Error>(())
    /// ```
    ///
    /// # Errors
    /// [`Poisoned`](crate::Error::Poisoned), if what was committed could not be made durable;
    /// [`NoSpace`](crate::Error::NoSpace), if it was, and only the mark of a clean end found no space.
    pub fn close(&self) -> Result<()> {
        self.handle().close()
    }
}
