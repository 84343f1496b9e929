use std::fs::Permissions;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::UNIX_EPOCH;

use redb::StorageBackend;
use redb::backends::InMemoryBackend;

use super::format::{DAMAGED, builder, read};
use super::*;

fn kept(body: &'static [u8]) -> Record {
    Record {
        since: Time {
            number: 7,
            is_confirmed: false,
        },
        fingerprint: [9; 32],
        state: State::Kept(Answer {
            status: 200,
            vendor_code: "0000".into(),
            headers: b"content-type: application/json\n".to_vec(),
            body: bytes::Bytes::from_static(body),
        }),
    }
}

fn bare(state: State) -> Record {
    Record { state, ..kept(b"") }
}

fn mode(path: &Path) -> u32 {
    path.metadata().unwrap().permissions().mode() & 0o777
}

#[tokio::test]
async fn what_was_written_is_there_when_it_is_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("a/b");
    let (store, saved) = Store::open(&path, UNIX_EPOCH).await.unwrap();
    assert!(saved.keys.is_empty() && saved.calls.is_empty());
    let rows = [
        ([1; 32], kept(b"{}")),
        ([2; 32], bare(State::Running)),
        ([3; 32], bare(State::InDoubt)),
    ];
    let put = |(id, record): &(KeyId, Record)| Change::Put(*id, record.clone());
    let put_all = rows.clone();
    store
        .write_keys(move || put_all.iter().map(put).collect())
        .await
        .unwrap();
    let changes = vec![
        Change::Put([4; 32], kept(b"x")),
        Change::Remove([4; 32]),
        Change::Remove([5; 32]),
    ];
    store.write_keys(|| changes).await.unwrap();
    let minute = |number, is_confirmed| Time {
        number,
        is_confirmed,
    };
    let calls = [(minute(10, true), 1), (minute(11, false), 2)];
    store.save_calls(move || (calls.into(), -5)).await.unwrap();
    let calls = [(minute(11, false), 3), (minute(11, true), 4)];
    store.save_calls(move || (calls.into(), -5)).await.unwrap();
    drop(store);

    let (_store, saved) = Store::open(&path, UNIX_EPOCH).await.unwrap();
    assert_eq!(saved.keys, rows);
    assert_eq!((saved.calls, saved.correction), (calls.into(), -5));
}

#[tokio::test]
async fn folder_and_file_are_their_owners_alone() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("state");
    drop(Store::open(&path, UNIX_EPOCH).await.unwrap());
    let file = path.join(FILE);
    assert_eq!((mode(&path), mode(&file)), (0o700, 0o600));
    std::fs::set_permissions(&file, Permissions::from_mode(0o644)).unwrap();
    drop(Store::open(&path, UNIX_EPOCH).await.unwrap());
    assert_eq!(mode(&file), 0o600);
}

#[tokio::test]
async fn a_store_that_is_open_is_not_opened_again() {
    let folder = tempfile::tempdir().unwrap();
    let (_store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    let again = Store::open(folder.path(), UNIX_EPOCH).await;
    assert!(matches!(again, Err(OpenError::InUse(_))), "{again:?}");
}

#[tokio::test]
async fn a_damaged_file_and_a_folder_that_is_none_are_told_apart() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    drop(Store::open(folder.path(), UNIX_EPOCH).await.unwrap());
    let whole = std::fs::read(&file).unwrap();
    let mut zeroed = whole.clone();
    zeroed[64..].fill(0);
    for content in [
        b"not a store".to_vec(),
        whole[..whole.len() / 2].to_vec(),
        zeroed,
    ] {
        std::fs::write(&file, content).unwrap();
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        assert!(
            matches!(opened, Err(OpenError::Damaged { .. })),
            "{opened:?}"
        );
    }
    let opened = Store::open(&file, UNIX_EPOCH).await;
    assert!(
        matches!(opened, Err(OpenError::Unusable { .. })),
        "{opened:?}"
    );
}

#[tokio::test]
async fn an_altered_answer_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    store
        .write_keys(|| vec![Change::Put([1; 32], kept(b"a body to be found"))])
        .await
        .unwrap();
    drop(store);
    let file = folder.path().join(FILE);
    let mut content = std::fs::read(&file).unwrap();
    let body = b"a body to be found";
    let places: Vec<usize> = (0..content.len() - body.len())
        .filter(|at| content[*at..].starts_with(body))
        .collect();
    for place in &places {
        content[*place] = b'A';
    }
    assert!(!places.is_empty());
    std::fs::write(&file, content).unwrap();
    for _ in 0..2 {
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        assert!(
            matches!(opened, Err(OpenError::Damaged { .. })),
            "{opened:?}"
        );
    }
    drop(std::fs::File::create(folder.path().join(DAMAGED)).unwrap());
    std::fs::remove_file(&file).unwrap();
    let opened = Store::open(folder.path(), UNIX_EPOCH).await;
    assert!(
        matches!(opened, Err(OpenError::Damaged { .. })),
        "what was set aside is not forgotten: {opened:?}"
    );
}

#[tokio::test]
async fn a_write_that_nobody_waits_for_is_not_overtaken() {
    let folder = tempfile::tempdir().unwrap();
    let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    for _ in 0..20 {
        let mut left =
            Box::pin(store.write_keys(|| vec![Change::Put([1; 32], bare(State::Running))]));
        let _ = futures::poll!(left.as_mut()); // begun
        drop(left);
        store
            .write_keys(|| vec![Change::Remove([1; 32])])
            .await
            .unwrap();
    }
    drop(store);
    let (_store, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    assert!(saved.keys.is_empty());
}

/// What the file held, and whether the marker was there.
type Moment = (Vec<u8>, bool);

/// A disk that remembers what it held after each step.
#[derive(Debug, Default)]
struct Recorder {
    disk: InMemoryBackend,
    /// Where the marker is to be.
    marker: PathBuf,
    moments: Arc<Mutex<Vec<Moment>>>,
}

impl Recorder {
    fn remember(&self) -> io::Result<()> {
        let length = self.disk.len()?.try_into().unwrap();
        let moment = (self.disk.read(0, length)?, self.marker.exists());
        self.moments.lock().unwrap().push(moment);
        Ok(())
    }
}

impl StorageBackend for Recorder {
    fn len(&self) -> io::Result<u64> {
        self.disk.len()
    }

    fn read(&self, offset: u64, length: usize) -> io::Result<Vec<u8>> {
        self.disk.read(offset, length)
    }

    fn set_len(&self, length: u64) -> io::Result<()> {
        self.disk.set_len(length)?;
        self.remember()
    }

    fn sync_data(&self, eventual: bool) -> io::Result<()> {
        self.disk.sync_data(eventual)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.disk.write(offset, data)?;
        self.remember()
    }
}

/// What a file holds at each moment of its making, from the empty one on.
fn moments_of_a_new_file() -> Vec<Vec<u8>> {
    let disk = Recorder::default();
    let moments = disk.moments.clone();
    let mut database = builder().create_with_backend(disk).unwrap();
    assert!(database.check_integrity().unwrap());
    read(&database, 7).unwrap();
    drop(database);
    let moments = std::mem::take(&mut *moments.lock().unwrap());
    let mut moments: Vec<_> = moments.into_iter().map(|(content, _)| content).collect();
    moments.extend([Vec::new(), vec![0; 4096]]);
    moments.dedup();
    moments
}

#[tokio::test]
async fn a_file_whose_making_was_cut_short_at_any_moment_is_a_new_one_unless_it_has_had_keys() {
    let moments = moments_of_a_new_file();
    assert!(moments.len() > 20);
    let mut is_old = false;
    for (number, moment) in moments.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join(FILE);
        std::fs::write(&file, moment).unwrap();
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        let (store, saved) = opened.unwrap_or_else(|error| panic!("moment {number}: {error}"));
        assert!(saved.keys.is_empty());
        // In the end it holds what is read at a start: it is one of before then.
        assert!(saved.is_new || moment.starts_with(b"redb"));
        is_old |= !saved.is_new;
        let put = || vec![Change::Put([1; 32], bare(State::Running))];
        store.write_keys(put).await.unwrap();
        drop(store);
        let (_, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        assert!(saved.keys.len() == 1 && !saved.is_new);

        std::fs::write(&file, moment).unwrap();
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        let is_lost = matches!(opened, Err(OpenError::Lost { .. }));
        assert!(is_lost, "moment {number}: {opened:?}");
        if !moment.starts_with(b"redb") {
            assert_eq!(&std::fs::read(&file).unwrap(), moment);
        }
    }
    assert!(is_old);
}

/// All moments of the writing of a first key.
fn moments_of_a_first_key() -> Vec<Moment> {
    let folder = tempfile::tempdir().unwrap();
    let recorder = Recorder {
        marker: folder.path().join(marker::NAME),
        ..Recorder::default()
    };
    let moments = recorder.moments.clone();
    let database = builder().create_with_backend(recorder).unwrap();
    read(&database, 7).unwrap();
    moments.lock().unwrap().clear();
    let marker = Marker::find(folder.path()).unwrap();
    let put = || vec![Change::Put([1; 32], bare(State::Running))];
    let mut disk = Disk { database, marker };
    disk.write(Work::Keys(Box::new(put))).unwrap();
    let mut moments = std::mem::take(&mut *moments.lock().unwrap());
    // The marker came between two moments of the file.
    if let Some(at) = moments.iter().position(|(_, is_marked)| *is_marked)
        && let Some(before) = at.checked_sub(1)
    {
        moments.insert(at, (moments[before].0.clone(), true));
    }
    moments.dedup();
    moments
}

#[tokio::test]
async fn a_first_key_that_is_cut_short_at_any_moment_neither_refuses_the_start_nor_lacks_its_marker()
 {
    let moments = moments_of_a_first_key();
    let count = |is_with: bool| moments.iter().filter(|moment| moment.1 == is_with).count();
    assert!(count(false) > 2 && count(true) > 2, "each has a commit");
    let mut has_key = false;
    for (number, (content, is_marked)) in moments.iter().enumerate() {
        let folder = tempfile::tempdir().unwrap();
        std::fs::write(folder.path().join(FILE), content).unwrap();
        if *is_marked {
            std::fs::write(folder.path().join(marker::NAME), "").unwrap();
        }
        let opened = Store::open(folder.path(), UNIX_EPOCH).await;
        let (store, saved) = opened.unwrap_or_else(|error| panic!("moment {number}: {error}"));
        has_key = !saved.keys.is_empty();
        assert!(*is_marked || !has_key, "moment {number}");
        let put = || vec![Change::Put([2; 32], bare(State::Running))];
        store.write_keys(put).await.unwrap();
        drop(store);
        let (_, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
        assert_eq!(saved.keys.len(), 1 + usize::from(has_key));
        assert!(folder.path().join(marker::NAME).exists());
    }
    assert!(has_key, "in the end it is written");
}

#[test]
fn a_store_that_is_read_while_it_is_written_to_is_not_taken_for_another_one() {
    let moments = moments_of_a_first_key();
    let marked: Vec<_> = moments.iter().filter(|moment| moment.1).collect();
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join(marker::NAME), "").unwrap();
    for pair in marked.windows(2) {
        let (before, after) = (&pair[0].0, &pair[1].0);
        for part in 0..=16 {
            let cut = before.len().min(after.len()) * part / 16;
            let read = [&before[..cut], &after[cut..]].concat();
            std::fs::write(folder.path().join(FILE), read).unwrap();
            let refusal = refusal(folder.path());
            assert!(refusal.is_none(), "{refusal:?}");
        }
    }
}

#[tokio::test]
async fn no_key_is_written_before_the_marker_is() {
    let folder = tempfile::tempdir().unwrap();
    let marker = folder.path().join(marker::NAME);
    let put = || vec![Change::Put([1; 32], bare(State::Running))];
    let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    let remove = || vec![Change::Remove([1; 32])];
    store.write_keys(remove).await.unwrap();
    assert!(!marker.exists(), "it has no key");
    std::fs::create_dir(&marker).unwrap(); // so that it cannot be written
    assert!(store.write_keys(put).await.is_err());
    drop(store);
    std::fs::remove_dir(&marker).unwrap();
    let (store, saved) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    assert!(saved.keys.is_empty());
    store.write_keys(put).await.unwrap();
    assert_eq!(mode(&marker), 0o600);
}

#[tokio::test]
async fn only_a_marked_store_that_neither_has_nor_has_had_a_key_is_lost() {
    // Has keys, the note, the marker; is it lost?
    let stores = [
        (false, false, false, false), // new, or of an older version, and its keys have ended
        (false, false, true, true),
        (false, true, false, false), // about to hold its first key
        (false, true, true, false),  // its keys have ended
        (true, false, false, false), // of an older version
        (true, false, true, false),
        (true, true, false, false), // the marker was removed
        (true, true, true, false),
    ];
    for row in stores {
        let (has_keys, is_noted, is_marked, is_lost) = row;
        let folder = tempfile::tempdir().unwrap();
        let (file, marker) = (folder.path().join(FILE), folder.path().join(marker::NAME));
        let database = builder().create(&file).unwrap();
        let put = Change::Put([1; 32], bare(State::Running));
        write_keys(
            &database,
            if has_keys {
                std::slice::from_ref(&put)
            } else {
                &[]
            },
        )
        .unwrap();
        if is_noted {
            note_keys(&database).unwrap();
        }
        drop(database);
        if is_marked {
            std::fs::write(&marker, "").unwrap();
        }
        for _ in 0..2 {
            match Store::open(folder.path(), UNIX_EPOCH).await {
                Ok((_, saved)) => {
                    assert!(!is_lost, "{row:?}");
                    assert_eq!(saved.keys.len(), usize::from(has_keys), "{row:?}");
                }
                Err(OpenError::Lost { .. }) => assert!(is_lost, "{row:?}"),
                Err(error) => panic!("{row:?}: {error}"),
            }
            assert_eq!(marker.exists(), is_marked || has_keys, "{row:?}");
        }
        if is_lost {
            continue;
        }
        let database = builder().create(&file).unwrap();
        let (_, has_held_keys) = read(&database, 7).unwrap();
        assert_eq!(has_held_keys, has_keys || is_noted, "{row:?}");
    }
}

#[tokio::test]
async fn a_file_without_its_beginning_that_has_had_keys_is_damaged_though_nothing_else_says_so() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join(FILE);
    let (store, _) = Store::open(folder.path(), UNIX_EPOCH).await.unwrap();
    let put = || vec![Change::Put([1; 32], bare(State::Running))];
    store.write_keys(put).await.unwrap();
    drop(store);
    std::fs::remove_file(folder.path().join(marker::NAME)).unwrap(); // as of an older version
    let mut content = std::fs::read(&file).unwrap();
    content[..4096].fill(0);
    std::fs::write(&file, content).unwrap();
    let opened = Store::open(folder.path(), UNIX_EPOCH).await;
    let is_damaged = matches!(opened, Err(OpenError::Damaged { .. }));
    assert!(is_damaged, "{opened:?}");
}
