//! Who the process is: root for as long as ports and files demand it, and from then on, for good, the user that the
//! file names. What it will want later, it has to be able to do as that user: reload, write to its log, open a port.

use std::ffi::CString;
use std::io;
use std::path::Path;

use adit::Address;
use adit::plan::{Plan, RunAs};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::prctl::set_no_new_privs;
use nix::sys::stat::{Mode, SFlag, fstat};
use nix::unistd::{
    AccessFlags, Gid, Group, Uid, User, access, fchownat, getegid, geteuid, getresgid, getresuid, initgroups,
    setgid, setgroups, setuid,
};

/// Nothing that the process could ever execute has more privileges than it has (PR_SET_NO_NEW_PRIVS, prctl(2)). Each
/// thread has this from the one that starts it, so it comes before all of them.
pub fn promise_no_new_ones() {
    let _ = set_no_new_privs(); // an old kernel's refusal takes nothing away
}

/// Whom the process is to become.
pub struct Identity {
    /// `None`: the group alone changes.
    user: Option<User>,
    group: Gid,
}

/// Whom the process is to become; `None`: nobody else.
///
/// # Errors
/// Where there is no such user or group, or this process may not become it.
pub fn find(run_as: &RunAs) -> Result<Option<Identity>, String> {
    let user = match &run_as.user {
        None => None,
        Some(name) => Some(known("user", name, User::from_name(name))?),
    };
    let group = match &run_as.group {
        None => None,
        Some(name) => Some(known("group", name, Group::from_name(name))?),
    };
    if !geteuid().is_root() {
        let other_user = user.filter(|user| user.uid != geteuid()).map(|user| ("user", user.name));
        let other_group = group.filter(|group| group.gid != getegid()).map(|group| ("group", group.name));
        return match other_user.or(other_group) {
            None => Ok(None),
            Some((what, name)) => Err(format!("{what} {name:?}: only root may become somebody else")),
        };
    }
    let of_user = user.as_ref().map(|user| user.gid);
    let group = group.map(|group| group.gid);
    Ok(group.or(of_user).map(|group| Identity { user, group }))
}

fn known<T>(what: &str, name: &str, found: nix::Result<Option<T>>) -> Result<T, String> {
    match found {
        Ok(Some(found)) => Ok(found),
        Ok(None) => Err(format!("{what} {name:?}: there is none of this name")),
        Err(error) => Err(format!("{what} {name:?}: cannot be looked up: {error}")),
    }
}

impl Identity {
    /// Becomes it, with every thread that there is (setuid(2): the C library sees to that). What the process has made
    /// for this plan is its own then.
    ///
    /// # Errors
    /// The kernel's, and where something would be left by which it could be root again.
    pub fn assume(&self, plan: &Plan) -> Result<(), String> {
        let mut sockets: Vec<&Path> = Vec::new();
        let listened_on = plan.listeners.iter().filter(|listener| !listener.drain);
        let listened_on = listened_on.map(|listener| &listener.address);
        for address in listened_on.chain(plan.admin.iter().map(|admin| &admin.address)) {
            match address {
                Address::Unix(path) => sockets.push(path),
                Address::Tcp(_) | Address::Inherited(_) => {}
            }
        }
        for path in &sockets {
            let given = self.hand_over(path);
            given.map_err(|error| {
                format!("user, group: {} cannot be given to them: {error}", path.display())
            })?;
        }
        self.drop_root().map_err(|error| format!("user, group: cannot be changed to: {error}"))?;
        for path in sockets {
            // An empty parent is where the process is.
            let parent = path.parent().filter(|parent| !parent.as_os_str().is_empty());
            let parent = parent.unwrap_or(Path::new("."));
            if let Err(error) = access(parent, AccessFlags::W_OK | AccessFlags::X_OK) {
                let (path, parent) = (path.display(), parent.display());
                log::warn!("{path} will be left behind at the end: {parent} cannot be written to: {error}");
            }
        }
        Ok(())
    }

    /// Gives a socket's file to the user, who can remove it then from a directory that all share, and reach it. It is
    /// looked at through a descriptor: the name may be somebody else's by now, where others may write as well.
    fn hand_over(&self, path: &Path) -> io::Result<()> {
        let file = match open(path, OFlag::O_PATH | OFlag::O_NOFOLLOW | OFlag::O_CLOEXEC, Mode::empty()) {
            Err(Errno::ENOENT) => return Ok(()), // there is nothing to give
            file => file?,
        };
        let status = fstat(&file)?;
        let is_socket = SFlag::from_bits_truncate(status.st_mode) & SFlag::S_IFMT == SFlag::S_IFSOCK;
        if !is_socket || status.st_uid != geteuid().as_raw() || status.st_nlink != 1 {
            return Err(io::Error::other("it is not what was made there"));
        }
        let user = self.user.as_ref().map(|user| user.uid);
        Ok(fchownat(&file, "", user, Some(self.group), AtFlags::AT_EMPTY_PATH)?)
    }

    /// Groups first, since who is no longer root may not change them, and the user last.
    fn drop_root(&self) -> io::Result<()> {
        match &self.user {
            Some(user) => initgroups(&CString::new(user.name.as_str())?, self.group)?,
            None => setgroups(&[self.group])?,
        }
        setgid(self.group)?;
        let groups = getresgid()?;
        let mut is_done = [groups.real, groups.effective, groups.saved].iter().all(|id| *id == self.group);
        if let Some(user) = &self.user {
            setuid(user.uid)?;
            let users = getresuid()?;
            is_done &= [users.real, users.effective, users.saved].iter().all(|id| *id == user.uid);
            is_done &= user.uid.is_root() || setuid(Uid::from_raw(0)).is_err();
        }
        match is_done {
            true => Ok(()),
            false => Err(io::Error::other("root could be regained")),
        }
    }
}
