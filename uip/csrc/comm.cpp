#include "comm.h"

namespace uip {
namespace {

// One per thread: two simulations in one process do not share a communicator. A backward pass that autograd runs
// on another thread uses the Comm of its forward pass: see `Adjoint` in ops.cpp. In exported programs the backward
// pass is part of the program.
thread_local Comm *current = nullptr;

}  // namespace

Comm *current_comm() { return current; }

UseComm::UseComm(Comm *comm) : previous_(current) { current = comm; }

UseComm::~UseComm() { current = previous_; }

}  // namespace uip
