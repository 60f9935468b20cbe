#include "comm.h"

namespace uip {
namespace {

// One per thread, so that two simulations in one process never share a communicator. Backward passes that
// autograd runs on a thread of its own find the Comm of their forward pass all the same: see `Adjoint` in
// ops.cpp. Exported programs need no such care; their backward pass is part of the program.
thread_local Comm *current = nullptr;

}  // namespace

Comm *current_comm() { return current; }

UseComm::UseComm(Comm *comm) : previous_(current) { current = comm; }

UseComm::~UseComm() { current = previous_; }

}  // namespace uip
