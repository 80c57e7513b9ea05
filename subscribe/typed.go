package subscribe

import (
	"context"
	"fmt"

	"versive-ingress/schema"
)

// Typed returns a handler for [Consumer].Event that calls handle with the data
// of each event, decoded as a T: the Go type that belongs to one type of event.
// The event's id and subject are those of the message.
//
//	subscribe.Consumer{
//		Filter: schema.Filter{Type: "interview.completed"},
//		Event: subscribe.Typed(func(ctx context.Context, data schema.InterviewCompleted, m subscribe.Message) error {
//
// An event of another type becomes a dead letter, so a consumer with a typed
// handler sets Filter.Type.
func Typed[T any](handle func(ctx context.Context, data T, m Message) error) func(context.Context, schema.Event, Message) error {
	return func(ctx context.Context, event schema.Event, m Message) error {
		data, err := schema.DecodeAs[T](event)
		if err != nil {
			return fmt.Errorf("%w: %w", err, ErrPermanent)
		}
		return handle(ctx, data, m)
	}
}
