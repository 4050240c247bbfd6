//! Finds the executable of a process agent, so that a wrong command is told in words before anything starts.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};

use rustix::fs::{Access, access};

/// The executable that `command` names: an absolute path, or a name that is looked up in `path`.
///
/// # Errors
/// One sentence: what is wrong and what to do.
pub(super) fn resolve(command: &str, path: &OsStr) -> Result<PathBuf, String> {
    let given = Path::new(command);
    if given.is_absolute() {
        return check(given).map(|()| given.to_owned());
    }
    if command.contains('/') {
        return Err(format!(
            "{command:?} is a relative path: give an absolute one, or a name in the node's PATH"
        ));
    }
    std::env::split_paths(path)
        .filter(|directory| directory.is_absolute())
        .map(|directory| directory.join(given))
        .find(|candidate| check(candidate).is_ok())
        .ok_or_else(|| {
            format!(
                "there is no executable {command:?} in the node's PATH: install it, or give an absolute path"
            )
        })
}

fn check(file: &Path) -> Result<(), String> {
    let metadata = match file.metadata() {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Err(format!(
                "there is no file {file:?} on this node: it must exist where the agent runs"
            ));
        }
        Err(error) => return Err(format!("{file:?} cannot be read: {error}")),
    };
    if metadata.is_dir() {
        return Err(format!("{file:?} is a directory: give the executable in it"));
    }
    if !metadata.is_file() {
        return Err(format!("{file:?} is not a file that can be executed"));
    }
    access(file, Access::EXEC_OK).map_err(|_| format!("{file:?} is not executable: `chmod +x` it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_an_absolute_path_or_a_name_in_the_path() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let plain = directory.path().join("plain");
        std::fs::write(&plain, "").expect("written");
        let path = std::env::join_paths([directory.path(), Path::new("/usr/bin"), Path::new("/bin")])
            .expect("paths");

        assert!(resolve("sh", &path).expect("every machine has it").ends_with("sh"));
        assert_eq!(resolve("/bin/sh", &path).expect("every machine has it"), Path::new("/bin/sh"));
        for (command, why) in [
            ("no-such-command-here", "no executable"),
            ("plain", "no executable"),
            ("./sh", "relative"),
            ("bin/sh", "relative"),
            ("/no/such/file", "no file"),
            ("/bin/sh/x", "cannot be read"),
            ("/tmp", "directory"),
            ("/dev/null", "not a file"),
            (plain.to_str().expect("text"), "not executable"),
        ] {
            let error = resolve(command, &path).expect_err(command);
            assert!(error.contains(why), "{error}");
        }
    }
}
