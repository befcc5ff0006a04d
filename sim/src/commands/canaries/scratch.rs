//! The copy of the workspace in which bugs are planted. Its build directory is its own, and shared by
//! all canaries, so that only the crates behind the change are compiled again.

use super::told;
use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// See the [module](self).
pub(super) struct Scratch {
    pub(super) dir: PathBuf,
    target: PathBuf,
}

impl Scratch {
    /// Makes the copy equal to the tracked files of the workspace. A file that is already equal is
    /// not touched, so that nothing is compiled again for it.
    pub(super) fn prepare(root: &Path, state: &Path) -> Result<Scratch, String> {
        let scratch = Scratch { dir: state.join("scratch"), target: state.join("target") };
        let tracked = tracked_files(root)?;
        for name in &tracked {
            let (from, to) = (root.join(name), scratch.dir.join(name));
            // Tracked, and removed in the working tree.
            let Ok(wanted) = fs::read(&from) else {
                continue;
            };
            if fs::read(&to).is_ok_and(|found| found == wanted) {
                continue;
            }
            if let Some(parent) = to.parent() {
                fs::create_dir_all(parent).map_err(|e| told("cannot create", parent, e))?;
            }
            fs::write(&to, wanted).map_err(|error| told("cannot write", &to, error))?;
        }
        let kept: BTreeSet<PathBuf> = tracked.iter().map(|name| scratch.dir.join(name)).collect();
        remove_others(&scratch.dir, &kept)?;
        Ok(scratch)
    }

    pub(super) fn build(&self) -> Result<(), String> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.args(["build", "--release", "--locked", "-p", "lightning_sim"]);
        cargo.args(["--bin", "lightning-sim", "--quiet"]);
        cargo.current_dir(&self.dir).env("CARGO_TARGET_DIR", &self.target);
        // Compiled again and again after a change of a few lines.
        cargo.envs([("CARGO_INCREMENTAL", "1"), ("CARGO_PROFILE_RELEASE_DEBUG", "0")]);
        let output = cargo.output().map_err(|error| format!("cannot run cargo: {error}"))?;
        match output.status.success() {
            true => Ok(()),
            false => {
                let all = String::from_utf8_lossy(&output.stderr);
                let errors = all.split("\n\n").filter(|part| part.contains("error"));
                Err(format!("it does not compile:\n{}", errors.collect::<Vec<_>>().join("\n\n")))
            }
        }
    }

    /// The simulator of the copy.
    pub(super) fn program(&self) -> PathBuf {
        self.target.join("release/lightning-sim")
    }
}

fn tracked_files(root: &Path) -> Result<Vec<String>, String> {
    let listed = Command::new("git").args(["ls-files", "-z"]).current_dir(root).output();
    let listed = listed.map_err(|error| format!("cannot run git: {error}"))?;
    if !listed.status.success() {
        return Err(format!("git ls-files: {}", String::from_utf8_lossy(&listed.stderr).trim()));
    }
    let names = String::from_utf8_lossy(&listed.stdout).into_owned();
    Ok(names.split('\0').filter(|name| !name.is_empty()).map(str::to_owned).collect())
}

/// Removes what lies below `dir` and is not to be kept.
fn remove_others(dir: &Path, kept: &BTreeSet<PathBuf>) -> Result<(), String> {
    let entries = fs::read_dir(dir).map_err(|error| told("cannot list", dir, error))?;
    for entry in entries {
        let path = entry.map_err(|error| told("cannot list", dir, error))?.path();
        if path.is_dir() {
            remove_others(&path, kept)?;
        } else if !kept.contains(&path) {
            fs::remove_file(&path).map_err(|error| told("cannot remove", &path, error))?;
        }
    }
    Ok(())
}

/// Applies a patch in `dir`, or takes it back. If it does not fit, says which hunk does not.
pub(super) fn apply(dir: &Path, patch: &str, reverse: bool) -> Result<(), String> {
    let mut git = Command::new("git");
    git.arg("apply").args(reverse.then_some("--reverse")).arg("-");
    // Git must not take the copy for a part of the repository that it may lie in.
    git.current_dir(dir).env("GIT_CEILING_DIRECTORIES", dir.parent().unwrap_or(dir));
    git.stdin(Stdio::piped()).stdout(Stdio::null()).stderr(Stdio::piped());
    let mut run = || -> io::Result<_> {
        let mut child = git.spawn()?;
        if let Some(mut stdin) = child.stdin.take() {
            io::Write::write_all(&mut stdin, patch.as_bytes())?;
        }
        child.wait_with_output()
    };
    let output = run().map_err(|error| format!("cannot run git apply: {error}"))?;
    match output.status.success() {
        true => Ok(()),
        false => {
            let why = String::from_utf8_lossy(&output.stderr);
            Err(format!("the patch no longer applies: {}", why.trim().replace('\n', "; ")))
        }
    }
}

/// A number for what the results depend on: all that is compiled but this tool, and the patch.
pub(super) fn fingerprint(scratch: &Scratch) -> Result<u64, String> {
    let mut all = String::new();
    let mut dirs =
        ["engine/src", "faults/src", "sim/src"].map(|dir| scratch.dir.join(dir)).to_vec();
    let mut files = vec![scratch.dir.join("Cargo.lock")];
    while let Some(dir) = dirs.pop() {
        let entries = fs::read_dir(&dir).map_err(|error| told("cannot list", &dir, error))?;
        for entry in entries {
            let path = entry.map_err(|error| told("cannot list", &dir, error))?.path();
            match path.is_dir() {
                true => dirs.push(path),
                false => files.push(path),
            }
        }
    }
    let tool = scratch.dir.join("sim/src/commands/canaries");
    files.retain(|path| !path.ends_with("sim/src/main.rs") && !path.starts_with(&tool));
    files.sort();
    for file in files {
        let text = fs::read(&file).map_err(|error| told("cannot read", &file, error))?;
        all.push_str(&String::from_utf8_lossy(&text));
    }
    Ok(lightning_faults::site_hash(&all))
}

#[cfg(test)]
mod tests {
    use super::{
        super::{patch::tests::PATCH, tests::TempDir},
        *,
    };

    #[test]
    fn a_patch_that_no_longer_applies_names_the_hunk() {
        let dir = TempDir::new("apply");
        let file = dir.0.join("story.txt");
        fs::write(&file, "once\nupon\na\n").expect("a file");
        apply(&dir.0, PATCH, false).expect("a patch that fits");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "once\na\n");
        let again = apply(&dir.0, PATCH, false).expect_err("it is applied already");
        assert!(again.contains("no longer applies") && again.contains("story.txt:1"), "{again}");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "once\na\n");
        apply(&dir.0, PATCH, true).expect("it is taken back");
        assert_eq!(fs::read_to_string(&file).expect("the file"), "once\nupon\na\n");
    }
}
