//! Group commit: every order of the steps of a few committing threads.

use super::*;
use crate::{env::model::ModelEnv, sync::model::explore};
use shuttle::thread;

const PAYLOAD: usize = 40;

struct Log {
    env: Arc<ModelEnv>,
    wal: Wal,
    tail: Mutex<Tail>,
    segment: Arc<Segment>,
    published: Arc<InOrder>,
    published_moved: Arc<Signal>,
    poison: Arc<Poison>,
}

impl Log {
    fn new() -> Arc<Log> {
        let env = ModelEnv::new();
        let any: Arc<dyn Env> = env.clone();
        let (poison, published) = (Arc::new(Poison::default()), Arc::new(InOrder::new(0)));
        let base = Lsn(BLOCK_BYTES);
        let (live, idle, durable_edit) = (vec![], vec![], EditNo(1));
        let start = LogStart { epoch: 1, continues: base, base, live, idle, durable_edit };
        let (first, max) = (16 * BLOCK_BYTES, 16 * BLOCK_BYTES);
        let plan = SegmentPlan { first, max, written: true, memtable_bytes: max, held_bytes: 0 };
        let ids = Arc::new(AtomicU64::new(1));
        let (names, uuid) = (Names::new(&any, "/log".into()), [7; 16]);
        let wal = Wal::new(&any, names, uuid, poison.clone(), ids, published.clone(), plan, start);
        let segment = wal.begin(BLOCK_BYTES).unwrap();
        let mut tail = Tail::new(base);
        tail.switch(segment.clone());
        let published_moved = Signal::new(&any);
        poison.wakes(&published_moved);
        let tail = Mutex::new(tail);
        Arc::new(Log { env, wal, tail, segment, published, published_moved, poison })
    }

    /// What `Db::commit` does with the log. Answers where the record lies, unless it failed.
    fn commit(&self, sync: bool) -> Result<LogSlot> {
        let (slot, seq) = {
            let mut tail = self.tail.lock();
            self.poison.check()?;
            let slot = tail.reserve(record_bytes(PAYLOAD)).unwrap();
            let seq = slot.ticket + 1;
            (slot, seq)
        };
        let mut buf = vec![seq as u8; record_bytes(PAYLOAD)];
        let stamp = Stamp {
            kind: RecordKind::Commit,
            flags: 0,
            first_seq: SeqNo(seq),
            operations: 1,
            payload_len: PAYLOAD as u32,
            payload_crc: 0,
        };
        self.wal.write(&self.segment, &slot, &mut buf, stamp)?;
        self.poison.check()?;
        self.published.complete_at(slot.ticket, seq, if sync { slot.end.0 } else { 0 });
        if sync {
            let synced = self.wal.sync_through(slot.end, &|| self.tail.lock().pad());
            self.published_moved.notify();
            if let Err(poisoned) = synced
                && self.published.cancel(slot.ticket)
            {
                return Err(poisoned);
            }
        }
        self.published_moved.notify();
        let mut cancelled = false;
        self.published_moved.wait(|| {
            if self.published.is_complete_below(slot.ticket + 1) {
                return Some(Ok(()));
            }
            let poisoned = self.poison.check().err()?;
            cancelled = cancelled || self.published.cancel(slot.ticket);
            cancelled.then_some(Err(poisoned))
        })?;
        Ok(slot)
    }

    fn is_durable(&self, slot: &LogSlot) -> bool {
        let at = (BLOCK_BYTES + slot.lsn.0 - self.segment.first().0) as usize;
        let payload = at + RECORD_HEADER_BYTES..at + RECORD_HEADER_BYTES + PAYLOAD;
        let wanted = [slot.ticket as u8 + 1; PAYLOAD];
        self.env.synced().get(payload) == Some(&wanted)
    }
}

#[test]
fn shuttle_what_is_acknowledged_is_durable() {
    explore(|| {
        let log = Log::new();
        let threads: Vec<_> = [true, true, false]
            .into_iter()
            .map(|sync| {
                let log = log.clone();
                thread::spawn(move || {
                    for _ in 0..2 {
                        let slot = log.commit(sync).unwrap();
                        assert!(!sync || log.is_durable(&slot), "acknowledged before durable");
                        assert!(!sync || log.wal.durable() >= slot.end);
                        assert!(log.published.watermark() > slot.ticket);
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert_eq!(log.published.watermark(), 6);
        assert_eq!(log.wal.waiting.load(SeqCst), 0);
    });
}

#[test]
fn shuttle_after_a_failed_sync_nothing_is_acknowledged_and_nobody_hangs() {
    explore(|| {
        let log = Log::new();
        let threads: Vec<_> = (0..3)
            .map(|i| {
                let log = log.clone();
                thread::spawn(move || {
                    if i == 0 {
                        log.env.fail_syncs();
                    }
                    match log.commit(true) {
                        Ok(slot) => assert!(log.is_durable(&slot)),
                        Err(_) => assert!(log.poison.check().is_err()),
                    }
                })
            })
            .collect();
        threads.into_iter().for_each(|t| t.join().unwrap());
        assert!(log.commit(true).is_err(), "a sync that failed is never tried again");
    });
}
