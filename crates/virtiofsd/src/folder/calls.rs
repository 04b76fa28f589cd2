//! The calls of the guest's file system, in the library's terms: each in the numbers of the file system behind.

use std::ffi::CStr;
use std::io;
use std::sync::atomic::Ordering;
use std::time::Duration;

use rustix::io::Errno;
use virtiofsd::filesystem::{
    Context, Entry, Extensions, FileSystem, FsOptions, GetxattrReply, ListxattrReply, OpenOptions,
    SetattrValid, SetxattrFlags, ZeroCopyReader, ZeroCopyWriter,
};
use virtiofsd::fuse::{Attr, SetattrIn};

use super::{Files, Folder, invalid, lock, name};

impl<P: Files> FileSystem for Folder<P> {
    type Inode = u64;
    type Handle = u64;
    type DirIter = P::DirIter;

    fn init(&self, capable: FsOptions) -> io::Result<FsOptions> {
        self.nodes().clear();
        self.unlock_all();
        let locks = FsOptions::POSIX_LOCKS | FsOptions::FLOCK_LOCKS;
        Ok(self.fs().init(capable)? | locks)
    }

    fn destroy(&self) {
        self.nodes().clear();
        self.unlock_all();
        self.fs().destroy();
    }

    fn lookup(&self, ctx: Context, parent: u64, wanted: &CStr) -> io::Result<Entry> {
        let found = name(wanted).and_then(|wanted| {
            let inner = self.inner(ctx, parent)?;
            let entry = self.fs().lookup(ctx, inner, wanted)?;
            self.enter(ctx, parent, wanted, entry)
        });
        if found.is_err() && self.0.listing.load(Ordering::Relaxed) {
            // It may just have been removed. The number 0 says that only its name is known.
            let (time, attr) = (Duration::ZERO, Attr::default());
            return Ok(Entry { inode: 0, generation: 0, attr, attr_timeout: time, entry_timeout: time });
        }
        found
    }

    fn forget(&self, ctx: Context, node: u64, times: u64) {
        let inner = self.nodes().forget(node, times);
        if let Some(inner) = inner {
            self.fs().forget(ctx, inner, 1);
        }
    }

    fn batch_forget(&self, ctx: Context, requests: Vec<(u64, u64)>) {
        for (node, times) in requests {
            self.forget(ctx, node, times);
        }
    }

    fn getattr(&self, ctx: Context, node: u64, _handle: Option<u64>) -> io::Result<(Attr, Duration)> {
        let inner = self.inner(ctx, node)?;
        let (mut attr, _) = self.fs().getattr(ctx, inner, None)?;
        let time = self.attributes(node, &mut attr);
        Ok((attr, time))
    }

    fn setattr(
        &self,
        ctx: Context,
        node: u64,
        attr: SetattrIn,
        handle: Option<u64>,
        valid: SetattrValid,
    ) -> io::Result<(Attr, Duration)> {
        if valid.contains(SetattrValid::SIZE) {
            self.end(attr.size, 0)?;
        }
        let inner = self.inner(ctx, node)?;
        let (mut attr, _) = self.fs().setattr(ctx, inner, attr, handle, valid)?;
        let time = self.attributes(node, &mut attr);
        Ok((attr, time))
    }

    fn readlink(&self, ctx: Context, node: u64) -> io::Result<Vec<u8>> {
        self.fs().readlink(ctx, self.inner(ctx, node)?)
    }

    fn symlink(
        &self,
        ctx: Context,
        target: &CStr,
        parent: u64,
        new: &CStr,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let new = name(new)?;
        let inner = self.inner(ctx, parent)?;
        let entry = self.fs().symlink(ctx, target, inner, new, extensions)?;
        self.enter(ctx, parent, new, entry)
    }

    fn mknod(
        &self,
        ctx: Context,
        parent: u64,
        new: &CStr,
        mode: u32,
        rdev: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let new = name(new)?;
        let inner = self.inner(ctx, parent)?;
        let entry = self.fs().mknod(ctx, inner, new, mode, rdev, umask, extensions)?;
        self.enter(ctx, parent, new, entry)
    }

    fn mkdir(
        &self,
        ctx: Context,
        parent: u64,
        new: &CStr,
        mode: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<Entry> {
        let new = name(new)?;
        let inner = self.inner(ctx, parent)?;
        let entry = self.fs().mkdir(ctx, inner, new, mode, umask, extensions)?;
        self.enter(ctx, parent, new, entry)
    }

    fn unlink(&self, ctx: Context, parent: u64, old: &CStr) -> io::Result<()> {
        let old = name(old)?;
        self.hold_on(ctx, parent, old);
        self.fs().unlink(ctx, self.inner(ctx, parent)?, old)?;
        self.nodes().removed(parent, old);
        Ok(())
    }

    fn rmdir(&self, ctx: Context, parent: u64, old: &CStr) -> io::Result<()> {
        let old = name(old)?;
        self.hold_on(ctx, parent, old);
        self.fs().rmdir(ctx, self.inner(ctx, parent)?, old)?;
        self.nodes().removed(parent, old);
        Ok(())
    }

    fn rename(
        &self,
        ctx: Context,
        old_parent: u64,
        old: &CStr,
        new_parent: u64,
        new: &CStr,
        flags: u32,
    ) -> io::Result<()> {
        let (old, new) = (name(old)?, name(new)?);
        self.hold_on(ctx, new_parent, new);
        let (from, to) = self.two(ctx, old_parent, new_parent)?;
        self.fs().rename(ctx, from, old, to, new, flags)?;
        let exchanged = flags & libc::RENAME_EXCHANGE != 0;
        self.nodes().renamed((old_parent, old), (new_parent, new), exchanged);
        Ok(())
    }

    fn link(&self, ctx: Context, node: u64, parent: u64, new: &CStr) -> io::Result<Entry> {
        let new = name(new)?;
        let (file, folder) = self.two(ctx, node, parent)?;
        let entry = self.fs().link(ctx, file, folder, new)?;
        self.enter(ctx, parent, new, entry)
    }

    fn open(
        &self,
        ctx: Context,
        node: u64,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<(Option<u64>, OpenOptions)> {
        let inner = self.inner(ctx, node)?;
        // The guest may still know a name that the host has removed. Told so, it asks what the name leads to now.
        let nameless = self.nodes().is_nameless(node);
        if !nameless && self.fs().getattr(ctx, inner, None)?.0.nlink == 0 {
            return Err(Errno::STALE.into());
        }
        let (handle, options) = self.fs().open(ctx, inner, kill_priv, flags)?;
        self.opened(node, handle);
        Ok((handle, options))
    }

    fn create(
        &self,
        ctx: Context,
        parent: u64,
        new: &CStr,
        mode: u32,
        kill_priv: bool,
        flags: u32,
        umask: u32,
        extensions: Extensions,
    ) -> io::Result<(Entry, Option<u64>, OpenOptions)> {
        let new = name(new)?;
        let inner = self.inner(ctx, parent)?;
        let exclusive = u32::try_from(libc::O_EXCL).unwrap_or_default();
        // The library would count a file once too often if it were there and could not be opened.
        let created =
            self.fs().create(ctx, inner, new, mode, kill_priv, flags | exclusive, umask, extensions);
        match created {
            Err(e) if e.kind() == io::ErrorKind::AlreadyExists && flags & exclusive == 0 => {
                let entry = self.lookup(ctx, parent, new)?;
                match self.open(ctx, entry.inode, kill_priv, flags) {
                    Ok((handle, options)) => Ok((entry, handle, options)),
                    Err(e) => {
                        self.forget(ctx, entry.inode, 1);
                        Err(e)
                    }
                }
            }
            Err(e) => Err(e),
            Ok((entry, handle, options)) => {
                let inner = entry.inode;
                match self.enter(ctx, parent, new, entry) {
                    Ok(entry) => {
                        self.opened(entry.inode, handle);
                        Ok((entry, handle, options))
                    }
                    Err(e) => {
                        if let Some(handle) = handle {
                            self.fs().release(ctx, inner, 0, handle, false, false, None)?;
                        }
                        Err(e)
                    }
                }
            }
        }
    }

    fn read<W: ZeroCopyWriter>(
        &self,
        ctx: Context,
        node: u64,
        handle: u64,
        w: W,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        flags: u32,
    ) -> io::Result<usize> {
        offset.checked_add(size.into()).filter(|end| i64::try_from(*end).is_ok()).ok_or_else(invalid)?;
        self.fs().read(ctx, self.inner(ctx, node)?, handle, w, size, offset, lock_owner, flags)
    }

    fn write<R: ZeroCopyReader>(
        &self,
        ctx: Context,
        node: u64,
        handle: u64,
        r: R,
        size: u32,
        offset: u64,
        lock_owner: Option<u64>,
        delayed_write: bool,
        kill_priv: bool,
        flags: u32,
    ) -> io::Result<usize> {
        self.end(offset, size.into())?;
        let inner = self.inner(ctx, node)?;
        self.fs().write(ctx, inner, handle, r, size, offset, lock_owner, delayed_write, kill_priv, flags)
    }

    fn flush(&self, ctx: Context, node: u64, handle: u64, lock_owner: u64) -> io::Result<()> {
        lock(&self.0.locks).flushed(node, lock_owner);
        self.fs().flush(ctx, self.inner(ctx, node)?, handle, lock_owner)
    }

    fn fsync(&self, ctx: Context, node: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.fs().fsync(ctx, self.inner(ctx, node)?, datasync, handle)
    }

    fn fallocate(
        &self,
        ctx: Context,
        node: u64,
        handle: u64,
        mode: u32,
        offset: u64,
        length: u64,
    ) -> io::Result<()> {
        self.end(offset, length)?;
        self.fs().fallocate(ctx, self.inner(ctx, node)?, handle, mode, offset, length)
    }

    fn release(
        &self,
        ctx: Context,
        node: u64,
        flags: u32,
        handle: u64,
        flush: bool,
        flock_release: bool,
        lock_owner: Option<u64>,
    ) -> io::Result<()> {
        let inner = self.inner(ctx, node)?;
        self.fs().release(ctx, inner, flags, handle, flush, flock_release, lock_owner)?;
        lock(&self.0.locks).released(node, handle);
        self.nodes().closed(node);
        Ok(())
    }

    fn statfs(&self, ctx: Context, node: u64) -> io::Result<libc::statvfs64> {
        self.fs().statfs(ctx, self.inner(ctx, node)?)
    }

    fn setxattr(
        &self,
        ctx: Context,
        node: u64,
        attribute: &CStr,
        value: &[u8],
        flags: u32,
        extra: SetxattrFlags,
    ) -> io::Result<()> {
        self.fs().setxattr(ctx, self.inner(ctx, node)?, attribute, value, flags, extra)
    }

    fn getxattr(&self, ctx: Context, node: u64, attribute: &CStr, size: u32) -> io::Result<GetxattrReply> {
        self.fs().getxattr(ctx, self.inner(ctx, node)?, attribute, size)
    }

    fn listxattr(&self, ctx: Context, node: u64, size: u32) -> io::Result<ListxattrReply> {
        self.fs().listxattr(ctx, self.inner(ctx, node)?, size)
    }

    fn removexattr(&self, ctx: Context, node: u64, attribute: &CStr) -> io::Result<()> {
        self.fs().removexattr(ctx, self.inner(ctx, node)?, attribute)
    }

    fn opendir(&self, ctx: Context, node: u64, flags: u32) -> io::Result<(Option<u64>, OpenOptions)> {
        let inner = self.inner(ctx, node)?;
        let (handle, options) = self.fs().opendir(ctx, inner, flags)?;
        self.opened(node, handle);
        Ok((handle, options))
    }

    fn readdir(
        &self,
        ctx: Context,
        node: u64,
        handle: u64,
        size: u32,
        offset: u64,
    ) -> io::Result<Self::DirIter> {
        self.fs().readdir(ctx, self.inner(ctx, node)?, handle, size, offset)
    }

    fn fsyncdir(&self, ctx: Context, node: u64, datasync: bool, handle: u64) -> io::Result<()> {
        self.fs().fsyncdir(ctx, self.inner(ctx, node)?, datasync, handle)
    }

    fn releasedir(&self, ctx: Context, node: u64, flags: u32, handle: u64) -> io::Result<()> {
        self.fs().releasedir(ctx, self.inner(ctx, node)?, flags, handle)?;
        lock(&self.0.locks).released(node, handle);
        self.nodes().closed(node);
        Ok(())
    }

    fn access(&self, ctx: Context, node: u64, mask: u32) -> io::Result<()> {
        self.fs().access(ctx, self.inner(ctx, node)?, mask)
    }

    fn lseek(&self, ctx: Context, node: u64, handle: u64, offset: u64, whence: u32) -> io::Result<u64> {
        self.fs().lseek(ctx, self.inner(ctx, node)?, handle, offset, whence)
    }

    fn copyfilerange(
        &self,
        ctx: Context,
        node_in: u64,
        handle_in: u64,
        offset_in: u64,
        node_out: u64,
        handle_out: u64,
        offset_out: u64,
        len: u64,
        flags: u64,
    ) -> io::Result<usize> {
        self.end(offset_out, len)?;
        let (from, to) = self.two(ctx, node_in, node_out)?;
        self.fs().copyfilerange(ctx, from, handle_in, offset_in, to, handle_out, offset_out, len, flags)
    }

    fn syncfs(&self, ctx: Context, node: u64) -> io::Result<()> {
        self.fs().syncfs(ctx, self.inner(ctx, node)?)
    }
}
