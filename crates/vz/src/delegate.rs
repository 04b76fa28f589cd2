//! The delegate that VZ tells how a machine ended.

use std::sync::Arc;

use objc2::rc::Retained;
use objc2::runtime::NSObject;
use objc2::{AnyThread, DefinedClass, define_class, msg_send};
use objc2_foundation::{NSError, NSObjectProtocol};
use objc2_virtualization::{VZVirtualMachine, VZVirtualMachineDelegate};
use vmette_vmm::{MachineEnd, Slot};

use crate::failure::Failure;

/// Where the end goes.
pub(crate) struct Ivars {
    end: Arc<Slot<MachineEnd>>,
}

define_class!(
    // SAFETY: NSObject has no rules for its subclasses, and there is no `Drop`.
    #[unsafe(super(NSObject))]
    #[ivars = Ivars]
    pub(crate) struct MachineDelegate;

    // SAFETY: the protocol has no requirements.
    unsafe impl NSObjectProtocol for MachineDelegate {}

    // SAFETY: selectors and types are the protocol's: see below, and the tests.
    unsafe impl VZVirtualMachineDelegate for MachineDelegate {
        // SAFETY: the selector of the protocol's method of this type.
        #[unsafe(method(guestDidStopVirtualMachine:))]
        fn guest_did_stop(&self, machine: &VZVirtualMachine) {
            self.powered_off(machine);
        }

        // SAFETY: the selector of the protocol's method of this type.
        #[unsafe(method(virtualMachine:didStopWithError:))]
        fn did_stop_with_error(&self, machine: &VZVirtualMachine, error: &NSError) {
            self.failed(machine, error);
        }
    }
);

impl MachineDelegate {
    /// The first of its calls sets `end`. VZ holds a delegate weakly.
    pub(crate) fn new(end: Arc<Slot<MachineEnd>>) -> Retained<Self> {
        let this = Self::alloc().set_ivars(Ivars { end });
        // SAFETY: `init` of NSObject.
        unsafe { msg_send![super(this), init] }
    }

    fn powered_off(&self, _machine: &VZVirtualMachine) {
        self.ivars().end.set(MachineEnd::PoweredOff);
    }

    fn failed(&self, _machine: &VZVirtualMachine, error: &NSError) {
        let failure = Failure::of(error);
        self.ivars().end.set(MachineEnd::Failed(format!("the machine failed: {}", failure.text())));
    }
}

/// The compiler does not compare the types of Objective-C methods with those of their protocol. Ours pass their arguments
/// on, and here each is given the type that the protocol's has.
const _: () = {
    type PoweredOff = unsafe fn(&MachineDelegate, &VZVirtualMachine);
    let _: PoweredOff = <MachineDelegate as VZVirtualMachineDelegate>::guestDidStopVirtualMachine;
    let _: PoweredOff = MachineDelegate::powered_off;
    type Failed = unsafe fn(&MachineDelegate, &VZVirtualMachine, &NSError);
    let _: Failed = <MachineDelegate as VZVirtualMachineDelegate>::virtualMachine_didStopWithError;
    let _: Failed = MachineDelegate::failed;
};

#[cfg(all(test, not(target_vendor = "apple")))]
pub(crate) mod tests {
    use super::*;
    use objc2::ClassType;
    use objc2::rc::autoreleasepool;
    use objc2::runtime::AnyClass;
    use objc2_foundation::NSString;
    use objc2_virtualization::VZVirtioBlockDeviceConfiguration;

    /// The system knows a class of a name once for the whole process: two versions of this library in one program must
    /// not share theirs.
    #[test]
    fn a_classs_name_is_of_this_version() {
        let name = MachineDelegate::class().name().to_str().unwrap();
        assert!(name.starts_with("vmette_vz") && name.ends_with(env!("CARGO_PKG_VERSION")), "{name}");
    }

    /// The selectors that a class of ours answers to, without those that the bindings add.
    pub(crate) fn own_selectors(class: &AnyClass) -> Vec<String> {
        let methods = class.instance_methods();
        let names = methods.iter().filter_map(|method| method.name().name().to_str().ok().map(str::to_owned));
        let mut names: Vec<_> = names.filter(|name| name != "dealloc" && name != ".cxx_destruct").collect();
        names.sort();
        names
    }

    /// Calls through the protocol send the protocol's selectors: a method of ours with another one is not found.
    #[test]
    fn the_delegates_selectors_are_the_protocols() {
        let end = Arc::new(Slot::new());
        let delegate = MachineDelegate::new(end.clone());
        // SAFETY: nothing looks at the machine.
        unsafe {
            let machine = Retained::cast_unchecked::<VZVirtualMachine>(NSObject::new());
            delegate.guestDidStopVirtualMachine(&machine);
        }
        assert_eq!(end.get(), Some(MachineEnd::PoweredOff));
        let end = Arc::new(Slot::new());
        let delegate = MachineDelegate::new(end.clone());
        // SAFETY: as above, and the error is one of the framework's.
        autoreleasepool(|_| unsafe {
            let machine = Retained::cast_unchecked::<VZVirtualMachine>(NSObject::new());
            let long = NSString::from_str(&"x".repeat(21));
            let error =
                VZVirtioBlockDeviceConfiguration::validateBlockDeviceIdentifier_error(&long).unwrap_err();
            delegate.virtualMachine_didStopWithError(&machine, &error);
        });
        assert!(
            matches!(end.get(), Some(MachineEnd::Failed(cause)) if cause.contains("Invalid block device"))
        );
        let own = own_selectors(MachineDelegate::class());
        assert_eq!(own, ["guestDidStopVirtualMachine:", "virtualMachine:didStopWithError:"]);
    }
}
