//! A configuration from its file: the one place of this room that reads files, and the only thing it does.

use std::path::{Path, PathBuf};

use super::{Config, ConfigError, Place, parse};

/// Reads and checks the file at `path`. `cores` is what `workers = 0` means.
///
/// Relative paths in the file start at its folder, wherever the program was started.
///
/// # Errors
/// The file cannot be read, or everything that is wrong with it.
pub fn load(path: &Path, cores: usize) -> Result<Config, Vec<ConfigError>> {
    let unreadable = |error: std::io::Error| {
        vec![ConfigError { place: Place::File(path.to_owned()), problem: format!("cannot be read: {error}") }]
    };
    let text = std::fs::read_to_string(path).map_err(unreadable)?;
    let folder = path.parent().unwrap_or(Path::new(""));
    let config = parse(&text, &|file| std::fs::read_to_string(folder.join(file)), cores)?;
    Ok(anchored(config, folder))
}

fn anchored(mut config: Config, folder: &Path) -> Config {
    let anchor = |path: &mut Option<PathBuf>| {
        if let Some(path) = path {
            *path = folder.join(&*path);
        }
    };
    if let Some(unix) = &mut config.listen.unix {
        unix.directory = folder.join(&unix.directory);
    }
    anchor(&mut config.auth.auth_file);
    let tls = &mut config.listen.tls;
    [&mut tls.cert_file, &mut tls.key_file, &mut tls.ca_file].into_iter().for_each(anchor);
    for database in config.databases.values_mut().chain(&mut config.any_database) {
        let database = std::sync::Arc::make_mut(database);
        let patroni = database.patroni.as_mut().and_then(|patroni| patroni.tls.as_mut());
        for tls in [&mut database.server_tls].into_iter().chain(patroni) {
            [&mut tls.cert_file, &mut tls.key_file, &mut tls.ca_file].into_iter().for_each(anchor);
        }
    }
    config
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relative_paths_start_at_the_files_folder() {
        let text = "listen.unix_directory = 'run'\nlisten.tls_cert = '/etc/server.crt'\n\
                    databases.app = { servers = 'localhost', server_tls_ca = 'ca.crt' }";
        let config = parse(text, &|_| Ok(String::new()), 1).expect("good");
        let config = anchored(config, Path::new("/etc/pglagoon"));
        assert_eq!(config.listen.unix.expect("a socket").directory, Path::new("/etc/pglagoon/run"));
        assert_eq!(config.listen.tls.cert_file.as_deref(), Some(Path::new("/etc/server.crt")));
        let ca = config.databases["app"].server_tls.ca_file.as_deref();
        assert_eq!(ca, Some(Path::new("/etc/pglagoon/ca.crt")));
    }

    #[test]
    fn a_missing_file_is_named() {
        let errors = load(Path::new("/nonexistent/pglagoon.toml"), 1).expect_err("no such file");
        assert!(errors[0].to_string().starts_with("/nonexistent/pglagoon.toml: cannot be read: "));
    }
}
