package main

import (
	"os"
	"syscall"
	"time"
)

// A usage is what a system and the bench itself have used so far.
type usage struct {
	service, brokers, bench  time.Duration // of processors
	servicePeak, brokersPeak int64         // most resident memory, bytes
	log                      int64         // of the service, bytes
}

func (sys *system) usage() (u usage, err error) {
	if u.service, u.servicePeak, err = total(sys.services()); err != nil {
		return u, err
	}
	for _, p := range sys.services() {
		info, err := os.Stat(p.log)
		if err != nil {
			return u, err
		}
		u.log = info.Size()
	}
	if u.brokers, u.brokersPeak, err = total(sys.brokers); err != nil {
		return u, err
	}
	var own syscall.Rusage
	if err = syscall.Getrusage(syscall.RUSAGE_SELF, &own); err != nil {
		return u, err
	}
	u.bench = time.Duration(own.Utime.Nano() + own.Stime.Nano())
	return u, nil
}

func total(processes []*process) (cpu time.Duration, memory int64, err error) {
	for _, p := range processes {
		c, err := p.cpu()
		if err != nil {
			return 0, 0, err
		}
		m, err := p.memory()
		if err != nil {
			return 0, 0, err
		}
		cpu, memory = cpu+c, memory+m
	}
	return cpu, memory, nil
}
