//! A copy of the PostgreSQL under test, with other files of pgq in it: another build of the library, scripts of other
//! versions. What is installed is left alone; programs find their files by paths relative to themselves, so all of them
//! move together.

use crate::process;
use crate::server::binary;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

/// The copy, removed when the program ends.
pub struct Installation {
    root: PathBuf,
}

impl Installation {
    /// Copies it.
    ///
    /// # Panics
    /// When that fails.
    pub fn copy() -> Installation {
        let root = process::make_directory("h");
        for what in ["--bindir", "--pkglibdir", "--sharedir"] {
            let from = asked(what);
            let to = below(&root, &from);
            fs::create_dir_all(to.parent().expect("a parent")).expect("a directory");
            let copied = Command::new("/bin/cp").arg("-rT").arg(&from).arg(&to).status().expect("cp is there");
            assert!(copied.success(), "{} was not copied", from.display());
        }
        let installation = Installation { root };
        installation.open();
        installation
    }

    /// Another build takes the library's place.
    ///
    /// # Panics
    /// When it is not there.
    pub fn replace_library(&self, with: &Path) {
        let place = below(&self.root, &library());
        fs::remove_file(&place).expect("the installed build was copied");
        fs::copy(with, &place).expect("the other build");
        self.open();
    }

    /// Writes a file into the directory of extensions.
    ///
    /// # Panics
    /// When it cannot be written.
    pub fn write(&self, name: &str, text: &str) {
        let folder = below(&self.root, &asked("--sharedir")).join("extension");
        fs::write(folder.join(name), text).unwrap_or_else(|error| panic!("{name}: {error}"));
        self.open();
    }

    /// Its server.
    pub fn postgres(&self) -> PathBuf {
        below(&self.root, &asked("--bindir")).join("postgres")
    }

    /// For the server's user, who is another one.
    fn open(&self) {
        let open = Command::new("chmod").args(["-R", "a+rX"]).arg(&self.root).status().expect("chmod is there");
        assert!(open.success());
    }
}

/// The installed library.
pub fn library() -> PathBuf {
    asked("--pkglibdir").join("pgq.so")
}

fn asked(what: &str) -> PathBuf {
    let output = Command::new(binary("pg_config")).arg(what).output().expect("pg_config is there");
    PathBuf::from(String::from_utf8_lossy(&output.stdout).trim())
}

fn below(root: &Path, path: &Path) -> PathBuf {
    root.join(path.strip_prefix("/").expect("pg_config prints whole paths"))
}
